# What Doxygen is shown of a page of the guide, or of README: headings and links by the names of Doxygen. Pages are written for
# whoever reads them as files: [a link](other.md#heading), and [`symbol`](../../include/fsdpinit/room/header.hpp) for a name of the
# library, which leads to the header there and to the symbol's documentation here.

function page_of(path,    name) {
  if (path ~ /(^|\/)(guide\/README\.md|docs\/guide)$/ || path == "README.md" && FILENAME ~ /docs\/guide\//) return "index"
  if (path ~ /README\.md$/) return "front"
  name = path
  sub(/^.*\//, "", name)
  sub(/\.md$/, "", name)
  return "guide_" name
}
function slug_of(title) {
  title = tolower(title)
  gsub(/[^a-z0-9 _-]/, "", title)
  gsub(/ /, "-", title)
  return title
}
# A link by its text and its target.
function link(text, target,    path, anchor, symbol) {
  path = target
  anchor = ""
  if (target ~ /#/) { anchor = target; sub(/^[^#]*#/, "", anchor); sub(/#.*$/, "", path) }
  if (path ~ /^[a-z]+:/) return "[" text "](" target ")"
  if (path == "" || path ~ /\.md$/) {
    gsub(/`/, "", text)  # which Doxygen would show
    return "[" text "](@ref " (path == "" ? self : page_of(path)) (anchor == "" ? "" : "-" anchor) ")"
  }
  if (path ~ /include\/fsdpinit\/.*\.(hpp|cuh)$/) {
    symbol = text
    if (symbol ~ /^`[A-Za-z_0-9:]+(\(|\{|`)/) {
      gsub(/^`|`$/, "", symbol)
      sub(/[({].*$/, "", symbol)
      gsub(/`/, "", text)
      return "[" text "](@ref fsdpinit::" symbol ")"
    }
    sub(/^.*include\/fsdpinit\//, "", path)
    return "[" text "](@ref " path ")"
  }
  if (path ~ /include\/fsdpinit\/[a-z]+$/) {
    sub(/^.*include/, "include", path)
    return "[" text "](@ref " path ")"
  }
  if (path ~ /\.(svg|png)$/) {  # a picture, by its name alone: Doxygen knows the folders
    sub(/^.*\//, "", path)
    return "[" text "](" path ")"
  }
  # A file that is not part of the pages: where it is.
  while (sub(/^(\.\.|\.)\//, "", path)) {}
  symbol = path
  sub(/^.*\//, "", symbol)
  return (text == path || text == symbol ? "" : text " (") "`" path "`" (text == path || text == symbol ? "" : ")")
}

FNR == 1 { self = page_of(FILENAME); if (FILENAME !~ /\.md$/) self = "" }
/^ *```/ { code = !code; print; next }
code { print; next }
/^<!-- .* -->$/ { next }
/^# / { print (self == "front" ? "# The front page" : $0) (self == "index" ? "" : " {#" self "}"); next }
/^##+ / { title = $0; sub(/^#+ +/, "", title); print $0 " {#" self "-" slug_of(title) "}"; next }
{
  out = ""
  rest = $0
  while (match(rest, /\[[^][]+\]\([^)]+\)/)) {
    out = out substr(rest, 1, RSTART - 1)
    found = substr(rest, RSTART + 1, RLENGTH - 2)
    rest = substr(rest, RSTART + RLENGTH)
    at = index(found, "](")
    out = out link(substr(found, 1, at - 1), substr(found, at + 2))
  }
  print out rest
}
