"""Put built pages beside those of the other versions: `python docs/publish.py HTML VERSION SITE`.

VERSION is dev, or X.Y of a release. SITE gets a folder of it, and of the newest release one more, `stable`;
`versions.json`, which the menu of versions reads; and an `index.html` that leads to the stable pages.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path


def publish(html: Path, version: str, site: Path) -> list[str]:
    """Copy the pages, and write what lists them; returns the names of the versions, newest first."""
    if not (html / "index.html").is_file():
        raise SystemExit(f"{html} has no index.html: build the pages first.")
    if version != "dev" and not all(part.isdigit() for part in version.split(".")):
        raise SystemExit(f"VERSION must be dev or X.Y, but is {version!r}.")
    replace(html, site / version)
    releases = [path.name for path in site.iterdir() if path.is_dir() and path.name.replace(".", "").isdigit()]
    releases.sort(key=lambda name: [int(part) for part in name.split(".")], reverse=True)
    if releases and version == releases[0]:
        replace(html, site / "stable")
    names = [*(["stable"] if releases else []), *(["dev"] if (site / "dev").is_dir() else []), *releases]
    (site / "versions.json").write_text(json.dumps(names) + "\n", encoding="utf-8")
    (site / "index.html").write_text(
        f'<!doctype html><meta charset="utf-8"><title>ltaug</title>'
        f'<meta http-equiv="refresh" content="0; url={names[0]}/"><a href="{names[0]}/">ltaug</a>\n',
        encoding="utf-8",
    )
    (site / ".nojekyll").touch()  # folders that begin with an underscore are pages' own
    return names


def replace(source: Path, target: Path) -> None:
    """Copy a folder, in place of what was there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".buildinfo", ".doctrees"))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__.partition("\n")[0])
    print(", ".join(publish(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))))
