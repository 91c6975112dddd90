"""What people look at after a replay: a page that stands alone, and a table for the terminal.

| file | what |
|---|---|
| `page` | `write`: the page, from `page.html.j2` and `page.css` |
| `charts` | one chart as two drawings: wide, and narrow for phones |
| `lines` `bars` `bands` | the kinds of charts |
| `canvas` `axes` `marks` `text` | what they share: a sheet in pixels, scales with ticks, what happened when, words and their widths |
| `svg` | matplotlib's SVG made fit for a page: colours that follow the theme, ids that do not collide |
| `palette` | the colours of both themes, and how runs are told apart without colour |
| `numbers` | figures in words, and a chart's numbers as a table |
| `terminal` | the live progress, and the table of claims |

`python -m holdfast.replay.report FILE.json` draws the page again from a replay's JSON.
"""
