"""The verb `completion`: scripts by which a shell completes the words of the command.

All three shells ask the same function, written in what bash, zsh and sh have in common. It compares
the words of the line with patterns: nothing in them is evaluated, and no Python is started.
"""

import shlex
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .arguments import Verb
from .console import Report, Terminal
from .options import Option

Shell = Literal["bash", "zsh", "fish"]

_FILES = ("/",)
"""Offers any file or folder."""


@dataclass(frozen=True, kw_only=True)
class CompletionOptions:
    """Which script to print."""

    shell: Shell
    """The shell that is to complete: bash, zsh or fish."""


def verb(verbs: Mapping[str, Verb[Any]]) -> Verb[CompletionOptions]:
    """The verb that prints the script for these verbs, and for itself once it is among them."""

    def run(options: CompletionOptions, terminal: Terminal) -> Report:
        """Print the script by which Tab completes verbs, options and their values.

        SHELL is bash, zsh or fish. To install it, put `source <(sparsteer completion bash)` into
        ~/.bashrc, `source <(sparsteer completion zsh)` into ~/.zshrc after compinit, or
        `sparsteer completion fish | source` into ~/.config/fish/config.fish.
        """
        script = completion_script(options.shell, verbs)
        return Report(values={"shell": options.shell, "script": script}, shown=(script,))

    return Verb(config=CompletionOptions, run=run, positional=("shell",))


def completion_script(shell: Shell, verbs: Mapping[str, Verb[Any]]) -> str:
    """The script for one of the shells that completes these verbs and their options."""
    options = {name: list(verb.options().values()) for name, verb in verbs.items()}
    places: dict[tuple[str, ...], list[str]] = {}
    for place, words in _offers(options):
        places.setdefault(words, []).append(place)
    branches = (
        f"    {_pattern(names)}) printf '%s\\n' {shlex.join(words)} ;;"
        for words, names in places.items()
        if words
    )
    taking = [place for name in verbs for place in _places(name, options[name])]
    function = (
        _FUNCTION.replace("@PAIRS@", _pattern(name for name in verbs if " " in name))
        .replace("@SWITCHES@", _pattern(place for place, option in taking if option.is_switch))
        .replace("@LISTS@", _pattern(place for place, option in taking if option.is_list))
        .replace("@BRANCHES@", "\n".join(branches))
    )
    if shell == "fish":  # which reads it between single quotes
        function = function.replace("\\", "\\\\").replace("'", "\\'")
    return _SCRIPTS[shell].replace("@FUNCTION@", function)


def _offers(verbs: Mapping[str, list[Option]]) -> Generator[tuple[str, tuple[str, ...]]]:
    """Each place of a line, and the words that may stand there.

    A place is the verb, a space, and what the word belongs to: a flag, the number of a value
    without a flag, or - for a flag itself. Before the verb, and behind the first word of two, the
    words of verbs are such values.
    """
    firsts = tuple(dict.fromkeys(name.split()[0] for name in verbs))
    yield " 0", (*firsts, "help", "--help", "--version")
    yield " -", ("--help", "--version")
    for group in (first for first in firsts if first not in verbs):
        yield f"{group} 0", (*_seconds(group, verbs), "--help")
        yield f"{group} -", ("--help",)
    for name, options in verbs.items():
        for place, option in _places(name, options):
            yield place, _values(name, option)
        flags = (*(option.shown for option in options if not option.positional), "--help")
        yield f"{name} -", flags
        values = [option for option in options if option.positional]
        if not any(option.is_list for option in values):  # a list goes on to the end
            yield f"{name} {len(values)}", (*_seconds(name, verbs), *flags)


def _seconds(first: str, verbs: Iterable[str]) -> tuple[str, ...]:
    """The second words of the verbs of two words that begin with that one."""
    return tuple(name.split()[1] for name in verbs if name.startswith(f"{first} "))


def _places(name: str, options: list[Option]) -> Generator[tuple[str, Option]]:
    """The place of the value of each option of a verb."""
    number = 0
    for option in options:
        if option.positional:
            yield f"{name} {number}", option
            number += 1
        else:
            yield f"{name} {option.shown}", option


def _values(name: str, option: Option) -> tuple[str, ...]:
    """What may be given for an option of the verb: of text the shell cannot know whether it is the
    name of a file, and offers that."""
    from ..sae.fetching.fetch import ARTIFACTS

    if option.is_switch or option.is_number:
        return ()
    if (name, option.name) == ("fetch", "name"):
        return tuple(ARTIFACTS)
    return option.choices or _FILES


def _pattern(words: Iterable[str]) -> str:
    """The pattern of `case` that only these words match."""
    return " | ".join(map(shlex.quote, words))


_FUNCTION = """\
# Print what may stand in place of the last word, each on a line; / is any file or folder.
_sparsteer_offers() {
    local verb="" flag="" place=0 ended=""
    if [ "$1" = help ] && [ $# -gt 1 ]; then shift; fi
    if [ $# -gt 1 ]; then
        verb=$1
        shift
        case "$verb $1" in
        @PAIRS@)
            if [ $# -gt 1 ]; then
                verb="$verb $1"
                shift
            fi
            ;;
        esac
    fi
    while [ $# -gt 1 ]; do
        case "$ended$1" in
        --) ended=/ flag="" ;;
        -*=* | -h) flag="" ;;
        --*)  # with a single dash it is a number: -1, -.5, -inf
            flag=$1
            case "$verb $flag" in
            @SWITCHES@) flag="" ;;
            esac
            ;;
        *)
            case "$verb ${flag:-$place}" in
            @LISTS@) ;;
            *) if [ -n "$flag" ]; then flag=""; else place=$((place + 1)); fi ;;
            esac
            ;;
        esac
        shift
    done
    case "$ended$1" in
    -*=*) _sparsteer_words "$verb ${1%%=*}" ;;
    -*) _sparsteer_words "$verb -" ;;
    *) _sparsteer_words "$verb ${flag:-$place}" ;;
    esac
}

_sparsteer_words() {
    case "$1" in
@BRANCHES@
    esac
}
"""

_BASH = """\
# bash completion of sparsteer; in ~/.bashrc: source <(sparsteer completion bash)

@FUNCTION@
_sparsteer() {
    local part offer files="" glue="" before="" last=-1 current=${COMP_WORDS[COMP_CWORD]}
    local -a given=()
    # To bash = and : are words of their own.
    for part in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
        case "$part" in
        [=:]*) glue=yes; [ "$last" -ge 0 ] || last=0 ;;
        *) [ -n "$glue" ] || last=$((last + 1)); glue="" ;;
        esac
        given[last]+=$part
    done
    case "$current" in
    [=:]*) current="" ;;
    -*=*) before=${current%%=*}= ;;  # where COMP_WORDBREAKS has no =
    esac
    COMPREPLY=()
    while IFS= read -r offer; do
        case "$offer" in
        "") ;;
        /) files=yes ;;
        *) [[ $before$offer != "$current"* ]] || COMPREPLY+=("$before$offer") ;;
        esac
    done <<< "$(_sparsteer_offers "${given[@]}")"
    # By default bash itself completes files.
    [ -n "$files" ] || compopt +o default 2> /dev/null
}

complete -o default -F _sparsteer sparsteer
"""

_ZSH = """\
#compdef sparsteer
# zsh completion of sparsteer; in ~/.zshrc, after compinit: source <(sparsteer completion zsh)

@FUNCTION@
_sparsteer() {
    local -a offered
    offered=(${(f)"$(_sparsteer_offers "${(@)words[2,CURRENT-1]}" "$PREFIX")"})
    if [[ $PREFIX == -*=* ]]; then compset -P 1 '*='; fi
    if [[ "${offered[1]}" == / ]]; then
        _files
    else
        compadd -a offered
    fi
}

if [ "${funcstack[1]}" = _sparsteer ]; then
    _sparsteer "$@"
else
    compdef _sparsteer sparsteer
fi
"""

_FISH = """\
# fish completion of sparsteer; in config.fish: sparsteer completion fish | source

function __sparsteer_complete
    set -l given (commandline -opc)
    set -l current (commandline -ct)
    set -l before (string match -r -- '^--[^=]*=' "$current")
    for offer in (sh -c '@FUNCTION@
_sparsteer_offers "$@"' $given "$current")
        if test "$offer" = /
            set -l path "$current"
            if test -n "$before"
                set path (string replace -r -- '^--[^=]*=' '' "$current")
            end
            for file in (__fish_complete_path "$path")
                printf '%s\\n' "$before$file"
            end
        else
            printf '%s\\n' "$before$offer"
        end
    end
end

complete --command sparsteer --no-files --arguments "(__sparsteer_complete)"
"""

_SCRIPTS: dict[Shell, str] = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
