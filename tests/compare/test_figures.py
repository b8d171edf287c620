from poolwise.compare.figures import dot_plot_of_runs
from poolwise.compare.statistics import read_runs


def test_the_figure_shows_every_run_and_every_mean(runs):
    svg = dot_plot_of_runs(read_runs(runs, "sentiment"))
    assert svg == dot_plot_of_runs(read_runs(runs, "sentiment"))
    markers = svg.count("<use ")
    ticks = svg[svg.index('id="matplotlib.axis_1"') : svg.index('id="matplotlib.axis_2"')].count("<use ")
    ticks += svg[svg.index('id="matplotlib.axis_2"') :].split('id="patch')[0].count("<use ")
    assert markers - ticks >= 9 + 3
