"""``linnet completion``: scripts that make a shell complete verbs, options and names of models.

Made from the table of verbs, so that they know what this version knows. The names are asked
for when they are completed (``linnet completion names``).
"""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from linnet.cli import VERBS
from linnet.formats.store import stored_models
from linnet.options import CONFIG_HELP, CompletionOptions, fields_of, flags_of

_BASH = """\
_linnet() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} verb=${{COMP_WORDS[1]}}
    local words="" models=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words={verbs}
    else
        case "$verb $prev" in
{after}
        *) case "$verb" in
{flags}
            esac ;;
        esac
    fi
    [ -z "$models" ] || words="$words $(linnet completion names 2>/dev/null)"
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
COMP_WORDBREAKS=${{COMP_WORDBREAKS//:}} # names hold colons
complete -o default -F _linnet linnet # files where there is nothing else
"""


def completion(options: CompletionOptions) -> dict[str, object]:
    """Prints the script, or the names; returns what ``--json`` prints."""
    writers = {"bash": _bash, "zsh": _zsh, "fish": _fish, "names": _names}
    text = writers[options.shell]()
    if not options.json:
        print(text, end="")
    return {"shell": options.shell, "text": text}


def _names() -> str:
    return "".join(f"{model.name}\n" for model in stored_models())


def _is_model(field: dataclasses.Field[Any]) -> bool:
    return field.metadata["metavar"] == "MODEL"


def _is_switch(field: dataclasses.Field[Any]) -> bool:
    return isinstance(field.default, bool)


def _flags(field: dataclasses.Field[Any]) -> list[str]:
    """Those of a named option; what is on unless it is switched off has the flag that does so as well."""
    named = flags_of(field)
    return [*named, named[-1].replace("--", "--no-", 1)] if field.default is True else named


def _bash() -> str:
    after, flags = [], []
    for verb, (config, _) in VERBS.items():
        fields = fields_of(config)
        named = [flag for field in fields if not field.metadata["positional"] for flag in _flags(field)]
        positional = [field for field in fields if field.metadata["positional"]]
        named = [*named, *(choice for field in positional for choice in field.metadata["choices"])]
        takes_model = any(map(_is_model, positional))
        models = " models=1" if takes_model else ""
        flags.append(
            f"            {verb}) words={shlex.quote(' '.join([*named, '--config', '--help']))}{models} ;;"
        )
        for field in fields:
            if field.metadata["positional"]:
                continue
            cases = "|".join(f'"{verb} {flag}"' for flag in flags_of(field))
            if field.metadata["choices"]:
                after.append(f"        {cases}) words={shlex.quote(' '.join(field.metadata['choices']))} ;;")
            elif _is_model(field):
                after.append(f"        {cases}) models=1 ;;")
            elif not _is_switch(field):
                after.append(f"        {cases}) ;;")
        after.append(f'        "{verb} --config") ;;')
    return _BASH.format(verbs=shlex.quote(" ".join(VERBS)), after="\n".join(after), flags="\n".join(flags))


def _zsh() -> str:
    return "autoload -U +X bashcompinit && bashcompinit\n" + _bash()


def _fish() -> str:
    lines = ["complete -c linnet -f -n __fish_use_subcommand -s h -l help"]
    for verb, (config, _) in VERBS.items():
        about = shlex.quote((config.__doc__ or "").strip().rstrip("."))
        lines.append(f"complete -c linnet -f -n __fish_use_subcommand -a {verb} -d {about}")
        seen = f"complete -c linnet -n '__fish_seen_subcommand_from {verb}'"
        for field in fields_of(config):
            values = "" if _is_switch(field) else " -r"
            if _is_model(field):
                values = " -r -a '(linnet completion names)'"
            if field.metadata["choices"]:
                values = f" -x -a {shlex.quote(' '.join(field.metadata['choices']))}"
            if field.metadata["positional"]:
                lines += [seen + values.replace(" -r", "")] if " -a" in values else []
                continue
            names = [
                f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in _flags(field)
            ]
            lines.append(f"{seen}{''.join(names)}{values} -d {shlex.quote(str(field.metadata['help']))}")
        lines += [f"{seen} -l config -r -d {shlex.quote(CONFIG_HELP)}", f"{seen} -s h -l help"]
    return "\n".join(lines) + "\n"
