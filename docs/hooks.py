"""A hook of mkdocs: pages link to files of the reproduction, which lie outside docs/."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

RESULTS = "experiments/results"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the report of the reproduction and its pictures to the site."""
    root = Path(config.config_file_path).parent
    results = root / RESULTS
    for path in sorted([*results.glob("*.md"), *results.glob("*.png")]):
        files.append(
            File(f"{RESULTS}/{path.name}", str(root), config.site_dir, config.use_directory_urls)
        )
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Make links that hold in the repository hold on the site."""
    return markdown.replace(f"(../{RESULTS}/", f"({RESULTS}/")
