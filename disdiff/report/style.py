"""The report's page and its style: no scripts, no fonts and no images from elsewhere."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title} · {run}</title>
<style>{style}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
<p class="faint">{run}</p>
</header>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""

STYLE = """
:root { --page: #ffffff; --ink: #1b1f24; --faint: #59636e; --line: #d8dee4; --card: #f6f8fa;
  --accent: #0969da; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0f1419; --ink: #e6edf3; --faint: #9198a1; --line: #30363d; --card: #181e25;
    --accent: #4493f8; }
  img.chart { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .5rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p, ul { margin: .45rem 0; max-width: 46rem; }
.faint, figcaption { color: var(--faint); overflow-wrap: anywhere; }
.notice { background: var(--card); border-left: 4px solid var(--accent); padding: .6rem .9rem;
  border-radius: 4px; }
.tiles, .units { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem;
  margin: 1.1rem 0; }
.tile, .unit { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.55rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--faint); font-size: .86rem; }
.units { grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); }
.unit { display: flex; flex-direction: column; gap: .4rem; font-size: .92rem; }
.unit label { flex: 1; }
.unit input { width: 100%; margin: 0; accent-color: var(--accent); }
.unit output { color: var(--faint); font-variant-numeric: tabular-nums; text-align: center; }
.frame { width: 100%; border-radius: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .7rem 0; font-size: .92rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { text-align: left; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; overflow-x: auto; }
figure img { max-width: 100%; min-width: 30rem; height: auto; border-radius: 6px; background: #fff;
  display: block; }
figcaption { margin-top: .45rem; max-width: 46rem; }
pre { background: var(--card); padding: .9rem; border-radius: 6px; overflow-x: auto; font-size: .82rem; }
summary { cursor: pointer; color: var(--accent); }
@media (max-width: 34rem) {
  table { font-size: .8rem; }
  th, td { padding-right: .55rem; }
  img.picture { min-width: 42rem; }
  figure::before { content: "swipe sideways to see all \\2194"; display: block; position: sticky; left: 0;
    color: var(--faint); font-size: .8rem; margin-bottom: .3rem; }
}
"""
