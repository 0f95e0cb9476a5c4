"""The site: `sphinx-build -W --keep-going -c docs . build/site` from the root of the repository.

The source folder is the repository, so that the same relative links work on the site, in an editor
and where the repository is hosted.
"""

import ast
import functools
import importlib
import inspect
import pathlib
import re
import sys
import textwrap
from typing import Any

from sphinx.util.inspect import stringify_signature

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import maml_jax  # noqa: E402

project = "maml_jax"
author = "the maml_jax authors"
project_copyright = author
version = release = maml_jax.__version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.linkcode",
    "sphinx_copybutton",
    "sphinx_design",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "notebooks/*.ipynb",
    "experiments/results/*.md",
    "BUILD_NOTES.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
exclude_patterns = ["build", ".venv*", "runs", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_url_schemes = {"http": None, "https": None}
nb_execution_mode = "off"  # the workflow of the site runs the notebooks: -D nb_execution_mode=force
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars

REPOSITORY = "https://github.com/OWNER/maml_jax"  # see CONTRIBUTING.md

html_theme = "furo"
html_title = "maml_jax"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["extra"]  # the first page leads to docs/
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "",
    "top_of_page_buttons": ["view"],
}
copybutton_exclude = ".linenos, .gp, .go"

default_role = "py:obj"  # `name` links to what it names, and else is code
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "special-members": "__call__"}
autodoc_preserve_defaults = True
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
nitpicky = False


# Shapes such as [*p] and words such as θ_ are no marks of reStructuredText.
_MARKS = re.compile(r"(?<=[\[, (])\*(?=[\w*])|(?<=\w)_(?!\w)")
# θ_{k+1} and m_k are formulas: θₖ₊₁ and mₖ.
_INDEX = re.compile(r"(?<![\w`])(\w)_(?:\{([kjt0-9+\N{MINUS SIGN}]+)\}|([kjt0-9])(?!\w))")
_SUBSCRIPTS = str.maketrans("kjt0123456789+\N{MINUS SIGN}", "ₖⱼₜ₀₁₂₃₄₅₆₇₈₉₊₋")


def _subscript(match: re.Match[str]) -> str:
    return match[1] + (match[2] or match[3]).translate(_SUBSCRIPTS)


def _field_comments(record: Any) -> list[str]:
    """What the comments behind the fields of a NamedTuple say, as a list of its attributes."""
    try:
        source = inspect.getsource(record).splitlines()
    except OSError:
        return []
    split = (line.partition("#") for line in source)
    named = [(code.strip().partition(":")[0], comment.strip()) for code, _, comment in split]
    fields = [f"  {name}: {text}" for name, text in named if name in record._fields and text]
    return ["", "Attributes:", *fields, ""] if fields else []


def describe(app: Any, kind: str, name: str, member: Any, options: Any, lines: Any) -> None:
    """Adds the fields of a NamedTuple to a docstring, and escapes what is no mark."""
    del app, name, options
    if kind == "class" and hasattr(member, "_fields"):
        lines += [] if any("Attributes:" in line for line in lines) else _field_comments(member)
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            line = _INDEX.sub(_subscript, line)
            lines[number] = _MARKS.sub(lambda mark: f"\\{mark[0]}", line)


def skip_fields(
    app: Any, kind: str, name: str, member: Any, skip: bool, options: Any
) -> bool | None:
    """Leaves out the fields of NamedTuples, which the docstring of the class describes."""
    del app, kind, name, skip, options
    return True if type(member).__name__ == "_tuplegetter" else None


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Where the source of a documented name is."""
    del domain
    try:
        member = functools.reduce(
            getattr, info["fullname"].split("."), importlib.import_module(info["module"])
        )
        file = pathlib.Path(inspect.getsourcefile(member) or "").relative_to(ROOT)
        line = inspect.getsourcelines(member)[1]
    except (AttributeError, OSError, TypeError, ValueError):  # data, fields
        return None
    return f"{REPOSITORY}/blob/main/{file}#L{line}"


def _aliases(member: Any) -> dict[str, str]:
    """Name -> annotation as written, of what is annotated with an alias of `Any`."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(member)))
    except (OSError, TypeError, SyntaxError):
        return {}
    written = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation:
            written[node.arg] = ast.unparse(node.annotation)
        elif isinstance(node, ast.AnnAssign):
            written[ast.unparse(node.target)] = ast.unparse(node.annotation)
        elif isinstance(node, ast.FunctionDef) and node.returns and node is tree.body[0]:
            written["return"] = ast.unparse(node.returns)
    return {name: of for name, of in written.items() if of in ("Params", "PyTree")}


def readable_signature(
    app: Any, kind: str, name: str, member: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Shows default functions by their names, and aliases of `Any` as they are written."""
    del app, kind, name, options
    if not signature:
        return None
    if getattr(member, "_is_protocol", False):  # what it calls, instead of how it is made
        call = inspect.signature(member.__call__)
        arguments = [of for of in call.parameters.values() if of.name != "self"]
        shown = stringify_signature(
            call.replace(parameters=arguments), unqualified_typehints=True, short_literals=True
        )
        signature, _, returns = shown.partition(" -> ")
    signature = re.sub(r"<function (\w+)[^>]*>", r"\1", signature)
    aliases = _aliases(member)
    for argument, alias in aliases.items():
        signature = re.sub(rf"\b{argument}: (~?typing\.)?Any\b", f"{argument}: {alias}", signature)
    return signature, aliases.get("return", returns)


def setup(app: Any) -> None:
    """Connects the functions above."""
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("autodoc-process-docstring", describe, priority=400)
