"""Hooks that mkdocs calls while it builds the site: pages, links, mathematics.

Every page keeps its place in the repository, where its links work, too. Here each link
is turned into one that works on the site: to another page, to a picture, or to a page
that shows a file of the source.
"""

import html
import os
import re
import tomllib
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from pymdownx.slugs import slugify

import fnn

SITE = Path(__file__).parent
ROOT = SITE.parent.parent
REFERENCE = tomllib.loads((SITE / "reference.toml").read_text("utf-8"))
ALIASES = REFERENCE.pop("aliases")

#: Pages outside fnn/ and pages/, and their addresses on the site.
ADDRESSES = {
    "README.md": "index.md",
    "experiments/README.md": "experiments.md",
    "scripts/bench/README.md": "speed.md",
    ".github/CHANGELOG.md": "changelog.md",
    ".github/CONTRIBUTING.md": "contributing.md",
}
#: The order of what stands in pages/; the other pages follow by themselves.
FIRST = ["start.md", "how_to.md", "coming_from.md"]
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".yml": "yaml"}
PICTURES = {".png", ".svg", ".jpg"}
LONGEST_SHOWN = 300_000  # characters; a longer file is copied as it is

FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r"(?:[-*]|\d+\.) +")
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
CODE = re.compile(r"<(code|pre)\b.*?</\1>", re.DOTALL)
ARITHMATEX = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>',
    re.DOTALL,
)


def repository_pages() -> dict[str, str]:
    """Return every page's path in the repository, with its address on the site."""
    pages = dict(ADDRESSES)
    for path in sorted(ROOT.glob("fnn/**/*.md")):
        name = path.relative_to(ROOT).as_posix()
        pages[name] = name.removesuffix("README.md") + "index.md" * (
            path.name == "README.md"
        )
    for path in sorted((SITE / "pages").glob("**/*.md")):
        name = path.relative_to(ROOT).as_posix()
        pages[name] = path.relative_to(SITE / "pages").as_posix()
    return pages


PAGES = repository_pages()
PLACES = {address: name for name, address in PAGES.items()}


# ---- Files and the table of contents ---------------------------------------------


def on_config(config):
    """Set what YAML cannot say, and list the pages."""
    config.extra["polyfills"] = ["assets/iframe-worker.js"]
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    config.markdown_extensions.append("pymdownx.superfences")
    config.mdx_configs["pymdownx.superfences"] = {
        "custom_fences": [{"name": "math", "class": "math", "format": format_math}]
    }
    own = [page for page in sorted(PLACES) if is_own(page) and page not in FIRST]
    learn = [page for page in own if not page.startswith(("gallery", "lecture"))]
    shown = [page for page in own if page not in learn]
    folders = [page for page in PLACES if page.startswith("fnn/")]
    reference = [f"reference/{name}.md" for name in REFERENCE]
    config.nav = [
        {"fnn": ["index.md", "speed.md", "changelog.md", "contributing.md"]},
        {"Learn": [*FIRST, *learn]},
        {"How it works": folder_nav(folders)},
        {"Experiments": ["experiments.md", *shown]},
        {"Reference": ["reference/index.md", *reference]},
    ]
    return config


def is_own(address: str) -> bool:
    """Return whether a page stands in `pages/`."""
    return PLACES[address].startswith("scripts/site/pages/")


def folder_nav(addresses: list[str]) -> list:
    """Return the pages of fnn's folders: each folder's own page, then its others."""
    nav: list = ["fnn/index.md"]
    for folder in sorted({str(PurePosixPath(a).parent) for a in addresses} - {"fnn"}):
        pages = [a for a in addresses if str(PurePosixPath(a).parent) == folder]
        pages.sort(key=lambda a: (not a.endswith("index.md"), a))
        nav.append({folder.removeprefix("fnn/"): pages} if pages[1:] else pages[0])
    return nav


def on_files(files, config):
    """Add the pages that stand outside of `pages/`, and the files that they link to."""
    for name, address in PAGES.items():
        if files.get_file_from_path(address) is None:
            add(files, config, address, path=ROOT / name)
    for path in sorted((SITE / "assets").iterdir()):
        add(files, config, f"assets/{path.name}", path=path)
    add(files, config, "reference/index.md", content=reference_index())
    for name, page in REFERENCE.items():
        add(files, config, f"reference/{name}.md", content=reference_page(page))
    for name in sorted(linked_files()):
        add_linked(files, config, name)
    return files


def add(files, config, address: str, *, path: Path | None = None, content="") -> None:
    """Add one file to the site, from a path or from its content."""
    if path is not None:
        files.append(File.generated(config, address, abs_src_path=str(path)))
    else:
        files.append(File.generated(config, address, content=content))


def linked_files() -> set[str]:
    """Return the repository's files and folders that pages link to."""
    found, new = set(), {name: (ROOT / name).read_text("utf-8") for name in PAGES}
    for name, text in new.items():
        for link in LINK.findall(FENCE.sub("", text)):
            target = resolve(name, link)
            if target is not None and target not in PAGES:
                found.add(target)
                if (ROOT / target).is_dir():
                    found |= {file_name(path) for path in files_of(target)}
    return found


def resolve(page: str, link: str) -> str | None:
    """Return the path in the repository that a page's link means, if it means one."""
    path = unquote(link.partition("#")[0])
    if not path or re.match(r"[a-z]+:", path):
        return None
    target = Path(os.path.normpath((ROOT / page).parent / path))
    if not target.is_relative_to(ROOT) or not target.exists():
        raise PluginError(f"{page}: the link to {link} leads nowhere")
    return file_name(target)


def file_name(path: Path) -> str:
    """Return a path within the repository."""
    return path.relative_to(ROOT).as_posix()


def files_of(folder: str) -> list[Path]:
    """Return the Python files of a folder."""
    return sorted((ROOT / folder).glob("*.py"))


def is_copied(name: str) -> bool:
    """Return whether a linked file is copied as it is: a picture, or a long one."""
    path = ROOT / name
    is_long = path.is_file() and path.stat().st_size > LONGEST_SHOWN
    return path.suffix in PICTURES or is_long


def address_of(name: str) -> str:
    """Return where on the site a page, a picture or another file stands."""
    if name in PAGES:
        return PAGES[name]
    return name if is_copied(name) else f"source/{name}.md"


def add_linked(files, config, name: str) -> None:
    """Add a linked file: a picture as it is, any other as a page that shows it."""
    path = ROOT / name
    if is_copied(name):
        add(files, config, name, path=path)
        return
    hidden = "---\nsearch: {exclude: true}\nhide: [toc]\n---\n"
    if path.is_dir():
        links = [f"- [`{p.name}`](./{path.name}/{p.name}.md)" for p in files_of(name)]
        body = "\n".join(links)
    else:
        language = LANGUAGES.get(path.suffix, "text")
        body = f"````{language}\n{path.read_text('utf-8')}\n````"
    content = f"{hidden}\n# `{name}`\n\n{body}\n"
    add(files, config, address_of(name), content=content)


# ---- The reference ---------------------------------------------------------------


def reference_page(page: dict) -> str:
    """Return the Markdown of one page of the reference."""
    parts = [f"# {page['title']}", page["about"]]
    for name in page["names"]:
        label = name.rpartition(".")[2]
        parts.append(
            f'<a id="{name}"></a>\n\n::: {where_written(name)}\n    options:\n'
            f"      heading: {name}\n      toc_label: {label}"
        )
        second = [alias for alias, target in ALIASES.items() if target == name]
        parts += [f"Also public as `{alias}`." for alias in second]
    return "\n\n".join(parts) + "\n"


def where_written(name: str) -> str:
    """Return the path that a public name has in the source.

    `fnn.summary` is a function and a module; `fnn.summary.summary` is the function.
    """
    value = fnn
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    if not hasattr(value, "__qualname__") or not value.__module__.startswith("fnn"):
        return name
    return f"{value.__module__}.{value.__qualname__}"


def reference_index() -> str:
    """Return the Markdown of the list of all public names."""
    parts = [
        "# All public names",
        "Each name leads to its equation, arguments, source.",
    ]
    for name, page in REFERENCE.items():
        links = [f"[`{symbol}`]({name}.md#{symbol})" for symbol in page["names"]]
        parts.append(f"## [{page['title']}]({name}.md)\n\n" + " · ".join(links))
    return "\n\n".join(parts) + "\n"


# ---- Links and mathematics -------------------------------------------------------


def on_page_markdown(markdown, page, config, files):
    """Turn links that work in the repository into links that work on the site."""
    name = PLACES.get(page.file.src_uri)
    if name is None:
        return markdown

    def on_site(match: re.Match) -> str:
        link = match[1]
        target = resolve(name, link)
        if target is None:
            return link
        here = PurePosixPath(page.file.src_uri).parent
        path = os.path.relpath(address_of(target), here)
        return path + "#" * ("#" in link) + link.partition("#")[2]

    pieces, end = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [LINK.sub(on_site, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return four_spaces("".join([*pieces, LINK.sub(on_site, markdown[end:])]))


def four_spaces(markdown: str) -> str:
    """Indent what belongs to an item of a list by four spaces.

    GitHub takes the width of "- " or "1. ", Python-Markdown nothing but four.
    """
    lines, width, in_fence, is_loose = [], 0, False, False
    for line in markdown.split("\n"):
        if line.startswith(("```", "~~~")):
            in_fence = not in_fence
        if in_fence:
            width = 0
        elif item := ITEM.match(line):
            if width and is_loose and lines[-1]:
                lines.append("")  # else it would go on with the item's last paragraph
            width, is_loose = len(item[0]), is_loose and width > 0
        elif width and line[:width].isspace() and len(line) > width:
            if not re.match(r" {4}\S", line):  # it has them already
                line = "    " + line[width:]
            is_loose = is_loose or not lines[-1]
        elif line and not line[0].isspace() and lines and not lines[-1]:
            width = 0
        lines.append(line)
    return "\n".join(lines)


def format_math(source, language, css_class, options, md, **kwargs) -> str:
    """Return a fence of mathematics as MathML."""
    return f'<div class="math">{mathml(source, "block")}</div>'


def mathml(tex: str, display: str) -> str:
    """Turn LaTeX into MathML, or raise where it is not understood."""
    drawn = convert(tex, display=display)
    if unknown := re.findall(r">(\\\w+)", drawn):
        raise PluginError(f"no MathML for {', '.join(unknown)} in {tex}")
    return drawn


def on_page_content(content, page, config, files):
    """Draw the mathematics between dollar signs as MathML."""

    def draw(match: re.Match) -> str:
        display = "block" if match["tag"] == "div" else "inline"
        drawn = mathml(html.unescape(match["tex"]), display)
        return f'<{match["tag"]} class="math">{drawn}</{match["tag"]}>'

    drawn = ARITHMATEX.sub(draw, content)
    if "$$" in CODE.sub("", drawn):
        raise PluginError(f"{page.file.src_uri}: mathematics that was not drawn")
    return drawn
