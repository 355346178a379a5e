# Seconds and memory of every contender, one row each. Called by run.sh:
#
#   gnuplot -e "out='qwen3-0.6b.png'; data='qwen3-0.6b.dat'; name='qwen3-0.6b'; ranks=4; rounds=7" bench/compare/chart.gnuplot
#
# `data` is what compare.py writes: title, kind, median, least and most seconds, GiB above what was there before the load: of
# rank 0, of the most loaded other rank, of all ranks.

stats data using 0 nooutput name "rows"
count = int(rows_records)
stats data using 5 nooutput name "seconds"
stats data using 8 nooutput name "memory"

set terminal pngcairo rounded size 1500, 190 + 46 * count font "DejaVu Sans,12" background rgb "white"
set output out
mine = 0x1f5fa8
peer = 0xe07b1a
least = 0x9aa3ab
colour(kind) = kind eq "floor" ? least : kind eq "python" ? peer : mine

set border 1 lc rgb "#777777"
set tics nomirror out textcolor rgb "#333333"
set ytics scale 0 noenhanced
set grid xtics lc rgb "#e4e4e4" lt 1
set yrange [count - 0.4:-0.6]
set style fill solid 0.85 noborder
unset key
half = 0.34

set multiplot title sprintf("Loading %s on %d processes: fsdpinit and its Python peers, median of %d", name, ranks, rounds) \
    font "DejaVu Sans Bold,16" noenhanced
set tmargin at screen 1 - 95.0 / (190 + 46 * count)
set bmargin at screen 65.0 / (190 + 46 * count)

set lmargin at screen 0.275
set rmargin at screen 0.60
set title "{/:Bold=14 seconds}\n{/=12 median; line: least to most}"
set xrange [0:seconds_max * 1.18]
set xlabel "seconds"
plot data using 3:0:(0):3:($0 - half):($0 + half):(colour(strcol(2))):ytic(1) with boxxyerror lc rgb variable, \
     data using 3:0:4:5 with xerrorbars pt -1 lw 1.6 lc rgb "#37414a", \
     data using 5:0:(sprintf("  %.2f", $3)) with labels left font "DejaVu Sans,11"

set lmargin at screen 0.635
set rmargin at screen 0.975
set format y ""
set title "{/:Bold=14 memory above what was there before}\n{/=12 all ranks; solid: of which rank 0}"
set xrange [0:memory_max * 1.18]
set xlabel "GiB"
plot data using 8:0:(0):8:($0 - half):($0 + half):(colour(strcol(2))):ytic("") with boxxyerror fs solid 0.35 lc rgb variable, \
     data using 6:0:(0):6:($0 - half):($0 + half):(colour(strcol(2))) with boxxyerror fs solid 0.85 lc rgb variable, \
     data using 8:0:(sprintf("  %.2f", $8)) with labels left font "DejaVu Sans,11"
unset multiplot
