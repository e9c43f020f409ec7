"""The command `completion`: a script for a shell, made of the command line itself by shtab. The
proxy is asked for names of models when they are completed."""

from argparse import ArgumentParser, _SubParsersAction
from typing import Any, Final

import shtab

SHELLS: Final = ("bash", "zsh", "fish")
NAMES: Final = "moe-proxy models --names 2>/dev/null"
# No `compgen -W`: that has the shell expand the words, and a model's name may be anything.
BASH: Final = f"""
_moe_proxy_models() {{
  local name
  while IFS= read -r name; do
    [[ $name == "$1"* ]] && printf '%q\\n' "$name"
  done < <({NAMES})
}}
"""
# A colon ends a word for readline, and is a part of a model's name. Where nothing is known, files.
BASH_WORDS: Final = """
_moe_proxy() {
  local line="${COMP_LINE:0:COMP_POINT}" index
  read -ra COMP_WORDS <<< "$line"
  [[ $line == *[[:space:]] ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _shtab_moe_proxy
  local word="${COMP_WORDS[COMP_CWORD]}"
  if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
    for index in "${!COMPREPLY[@]}"; do
      COMPREPLY[index]="${COMPREPLY[index]#"${word%"${word##*:}"}"}"
    done
  fi
}
complete -o bashdefault -o default -F _moe_proxy moe-proxy
"""
ZSH: Final = f"""
_moe_proxy_models() {{
  local -a names
  names=(${{(f)"$({NAMES})"}})
  compadd -a names
}}
"""
MODELS: Final[dict[str, Any]] = {
    "bash": "_moe_proxy_models",
    "zsh": "_moe_proxy_models",
    "fish": f"({NAMES})",
}


# By what the help calls it.
COMPLETED: Final[dict[str, Any]] = {
    "MODEL": MODELS,
    **dict.fromkeys(("PATH", "FILE", "MODELFILE"), shtab.FILE),
    "DIR": shtab.DIRECTORY,
}


def script(parser: ArgumentParser, shell: str) -> str:
    """The script for one of SHELLS."""
    for command in _commands(parser):
        for action in command._actions:
            metavar = action.metavar if isinstance(action.metavar, str) else ""
            if metavar in COMPLETED:
                vars(action)["complete"] = COMPLETED[metavar]  # what shtab looks for
    preamble: Any = {"bash": BASH, "zsh": ZSH}.get(shell, "")
    made: str = shtab.complete(parser, shell=shell, preamble=preamble)
    return made + BASH_WORDS if shell == "bash" else made


def _commands(parser: ArgumentParser) -> list[ArgumentParser]:
    found = [action for action in parser._actions if isinstance(action, _SubParsersAction)]
    return [command for action in found for command in action.choices.values()]
