# Draws how long an initialisation takes and what a rank holds, against the number of ranks, each way to load a curve. Called by
# sweep.sh:
#
#   gnuplot -e "out='cluster.png'; data='cluster.dat'; name='qwen3-8b'; per_node=8" examples/clusters/sweep.gnuplot
#
# A way is a block of `data`: ranks, simulated seconds, seconds of the model, seconds waited, peak bytes.

gib = 2.0 ** 30
array ways[5] = ["broadcast", "scatter", "scatter, a source per node", "own-read", "every rank loads"]
array colours[5] = ["#2a6fbb", "#1b8a5a", "#e08e0b", "#7a4fa3", "#c0392b"]
array points[5] = [4, 6, 8, 12, 10]

set terminal pngcairo rounded size 1400, 700 font "DejaVu Sans,12" background rgb "white"
set output out
set multiplot layout 1, 2 title sprintf("Initialising %s, simulated: %d ranks to a node", name, per_node) \
    font "DejaVu Sans Bold,15" noenhanced
set logscale xy
set logscale x 2
set rmargin 4
set grid lc rgb "#dddddd" lw 1
set format x "%.0f"
set xlabel "ranks"
set xrange [0.9:*]
set xtics 4
set arrow 1 from per_node, graph 0 to per_node, graph 1 nohead dashtype 3 lc rgb "#555555"
set label 1 "one node is full" at per_node, graph 0.97 left offset 0.5, 0 textcolor rgb "#555555" font "DejaVu Sans,10"

set title "until every rank has its shards; thin: the model of averages"
set ylabel "seconds"
set format y "%g"
set key top left at graph 0.02, 0.93 reverse Left samplen 2 spacing 1.2 opaque
plot for [i = 1:5] data index i - 1 using 1:2 with linespoints lw 2 pt points[i] ps 1.1 lc rgb colours[i] title ways[i], \
     for [i = 1:5] data index i - 1 using 1:3 with lines dashtype 2 lw 1 lc rgb colours[i] notitle

set title "memory of the rank that needs most: host and device"
set ylabel "GiB"
unset key
plot for [i = 1:5] data index i - 1 using 1:($5 / gib) with linespoints lw 2 pt points[i] ps 1.1 lc rgb colours[i] notitle
unset multiplot
