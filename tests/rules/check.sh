#!/usr/bin/env bash
# usage: check.sh RULES < the output of `ctest -N`
# Every test that RULES names is there, and every rule has one that obeys it and one that breaks it, or says `-`.
set -euo pipefail
awk -F ' *[|] *' '
  FILENAME == "-" {
    if (sub(/^ *Test +#[0-9]+: /, "")) { sub(/ +# GetParam.*/, ""); known[$0] = 1 }
    next
  }
  /^#/ || NF == 0 { next }
  NF != 3 || $1 == "" || $2 == "" || $3 == "" || $2 == "-" {
    print FILENAME ":" FNR ": a rule is `what | tests that obey it | tests that break it, or -`"
    bad = 1
    next
  }
  {
    ++rules
    count = split($2 " " ($3 == "-" ? "" : $3), tests, " ")
    for (i = 1; i <= count; ++i) if (!(tests[i] in known)) { print FILENAME ":" FNR ": there is no test " tests[i]; bad = 1 }
  }
  END {
    if (!rules) { print "no rules"; bad = 1 }
    if (!bad) print rules " rules"
    exit bad
  }
' - "$1"
