# Draws what every rank holds while a model is loaded and its optimizer created, policies side by side on one scale. Called by
# run.sh:
#
#   gnuplot -e "out='memory.png'; folder='build/demo'; labels='every-rank-loads native-sharding+scatter';
#               model=1192099840; ranks=4; name='Qwen3-0.6B'; optimizer=1" examples/memory.gnuplot
#
# For each label `folder`/LABEL.csv is what `fsdpinit load --timeline` wrote, `optimizer`: with --optimizer; `model` is in bytes.

gib = 2.0 ** 30
panels = words(labels)
csv(i) = sprintf("%s/%s.csv", folder, word(labels, i))
# The lines of one rank; it is a pipe, so that a line of another rank does not break the curve.
rank_lines(i, r) = sprintf("< awk -F, 'NR > 1 && $2 == %d' \"%s\"", r, csv(i))
pretty(i) = system(sprintf("echo '%s' | sed 's/+/, /'", word(labels, i)))
# The moment at which the last rank is ready, or begins with the optimizer: the load is over.
loaded(i) = real(system(sprintf("awk -F, '($3 == \"optimizer\" || $3 == \"ready\") && !seen[$2]++ && $1 > t { t = $1 } END { print t + 0 }' \"%s\"", csv(i))))
# The most bytes in a column up to then.
most(i, column) = real(system(sprintf("awk -F, -v t=%f 'NR > 1 && $1 <= t && $%d > m { m = $%d } END { printf \"%%.0f\", m }' \"%s\"", \
    loaded(i), column, column, csv(i)))) / gib

set datafile separator ","
seconds = 0.0
highest = model / gib
do for [i = 1:panels] {
  stats csv(i) skip 1 using 1 nooutput name "t"
  stats csv(i) skip 1 using ($4 / gib) nooutput name "r"
  seconds = t_max > seconds ? t_max : seconds
  highest = r_max > highest ? r_max : highest
}

set terminal pngcairo rounded size 480 * panels + 120, 900 font "DejaVu Sans,12" background rgb "white"
set output out
array colour[6] = ["#1f5fa8", "#e07b1a", "#2c9c5a", "#b03a8c", "#8a6d3b", "#5f6b76"]
# Beyond six ranks those that only receive share a colour.
few = ranks <= 6
rank_colour(r) = colour[few || r == 0 ? r + 1 : 2]
rank_title(r) = r == 0 ? "rank 0 (source)" : few ? sprintf("rank %d", r) : r == 1 ? sprintf("ranks 1 to %d", ranks - 1) : ""
# Ranks often hold the same: wide lines below, thin ones above, so that each can be seen.
rank_width(r) = few ? 1.6 + 1.7 * (ranks - 1 - r) : 1.5

set border 3 lc rgb "#777777"
set tics nomirror out textcolor rgb "#333333"
set grid ytics lc rgb "#e4e4e4" lt 1
set xrange [0:seconds * 1.03]
set yrange [0:highest * 1.12]
left(i) = (105.0 + 485 * (i - 1)) / (480.0 * panels + 120)
right(i) = (105.0 + 485 * (i - 1) + 425) / (480.0 * panels + 120)

point = panels == 1 ? "" : ": with native sharding none ever holds the model"  # there is room for it
set multiplot title sprintf("Loading %s (%.2f GiB) on %d process%s%s%s", name, model / gib, ranks, ranks == 1 ? "" : "es", \
    optimizer ? ", then creating the optimizer" : "", point) \
    font sprintf("DejaVu Sans Bold,%d", panels == 1 ? 12 : 15) noenhanced

do for [i = 1:panels] {
  set lmargin at screen left(i)
  set rmargin at screen right(i)
  set label 1 sprintf("the whole model, %.2f GiB", model / gib) at graph 0.01, first model / gib left offset 0,0.6 \
      textcolor rgb "#c0392b" font "DejaVu Sans,11" front
  set arrow 1 from first loaded(i), graph 0 to first loaded(i), graph 0.93 nohead dashtype 3 lc rgb "#555555"
  set label 2 (optimizer ? "optimizer" : "ready") at first loaded(i), graph 0.96 center textcolor rgb "#555555" font "DejaVu Sans,10" front

  # Above: resident memory, as the operating system counts it.
  set tmargin at screen 0.855
  set bmargin at screen 0.525
  set title sprintf("{/:Bold=14 %s}\n{/=12 %.1f s, at most %.2f GiB resident per rank}", pretty(i), \
      loaded(i), most(i, 4))
  if (i == 1) { set ylabel "resident memory of each rank  [GiB]" offset 0,0 } else { unset ylabel }
  unset xlabel
  unset key
  plot for [r = 0:ranks - 1] rank_lines(i, r) using 1:($4 / gib) with steps lw rank_width(r) lc rgb rank_colour(r) \
           notitle, \
       model / gib with lines dashtype 2 lw 1.6 lc rgb "#c0392b" notitle

  # Below: what the library has allocated.
  if (i == 1) { set key at graph 0.62, graph 0.62 samplen 2.5 spacing 1.2 } else { unset key }
  set tmargin at screen 0.435
  set bmargin at screen 0.085
  unset title
  set xlabel "seconds"
  if (i == 1) { set ylabel "accounted memory of each rank  [GiB]" offset 0,0 } else { unset ylabel }
  plot for [r = 0:ranks - 1] rank_lines(i, r) using 1:($5 / gib) with steps lw rank_width(r) lc rgb rank_colour(r) \
           title rank_title(r), \
       model / gib with lines dashtype 2 lw 1.6 lc rgb "#c0392b" notitle
}
unset multiplot
