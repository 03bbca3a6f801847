"""Files of the site outside `docs`: they are added, and links to them lead there."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "benchmarks/RECIPE.md",
    "benchmarks/COMPARISON.md",
    "benchmarks/history/recipe-log.md",
    "benchmarks/history/recipe-spectral.md",
    "benchmarks/history/comparison-log.md",
    "benchmarks/steps.png",
    "data/README.md",
    "notebooks/tour.ipynb",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "pretrained/shapes3d/traversal.gif",
)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that are elsewhere."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links, which are written for the repository, lead to the same pages of the site.

    Raises:
        ValueError: a link leads to no page.
    """
    outside = page.file.src_uri in OUTSIDE
    here = (ROOT if outside else ROOT / "docs") / page.file.src_uri

    def lead(link: re.Match) -> str:
        """The same link within the site."""
        target = (here.parent / link[1]).resolve().relative_to(ROOT).as_posix().removeprefix("docs/")
        if files.get_file_from_path(target) is None:
            raise ValueError(f"{page.file.src_uri} links to {link[1]}, which is no page of the site")
        up = "../" * page.file.src_uri.count("/")
        return f"]({up}{target}{link[2] or ''})"

    return LINK.sub(lead, markdown)
