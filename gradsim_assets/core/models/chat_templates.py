"""Chat templates: how they are rendered, and whether one does what a sample needs."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Message

if TYPE_CHECKING:
    from jinja2 import nodes

#: The "tulu" format of open-instruct: no BOS, EOS after an answer, no newline at the very end of a conversation.
TULU_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' + message['content'] + eos_token }}{{ '' if loop.last else '\n' }}"
    "{% else %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

#: How a template marks what the model is to generate.
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")

#: The day that templates print which ask for today's (Llama 3, Mistral Small, Granite, SmolLM3): the same text for the
#: same sample on every day. It is the one that Llama 3's template falls back on. By what `strftime` is asked for.
TODAY = {
    "%Y": "2024",
    "%y": "24",
    "%m": "07",
    "%-m": "7",
    "%d": "26",
    "%-d": "26",
    "%e": "26",
    "%j": "208",
    "%B": "July",
    "%b": "Jul",
    "%h": "Jul",
    "%A": "Friday",
    "%a": "Fri",
    "%u": "5",
    "%w": "5",
    "%H": "00",
    "%-H": "0",
    "%I": "12",
    "%-I": "12",
    "%M": "00",
    "%-M": "0",
    "%S": "00",
    "%-S": "0",
    "%f": "000000",
    "%p": "AM",
    "%Z": "",
    "%z": "",
}

#: The same in longer words.
_LONGER = {
    "%c": "%a %b %d %H:%M:%S %Y",
    "%x": "%m/%d/%y",
    "%X": "%H:%M:%S",
    "%F": "%Y-%m-%d",
    "%D": "%m/%d/%y",
    "%T": "%H:%M:%S",
    "%R": "%H:%M",
}

#: A conversation that no template has a reason to change.
_USER, _ASSISTANT = "What is two and two?", "Four it is."

#: Variables that a template may print although a tokenizer has none of them.
_SPECIAL_TOKENS = {f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}


def render(
    tokenizer: Any,
    template: str | None,
    messages: Sequence[Message],
    generation_prompt: bool,
    tools: Sequence[Any] | None = None,
) -> str:
    """The conversation as one string; `template` is the text of one, None the tokenizer's own.

    Raises:
        InputError: the template is no Jinja, or refuses the conversation.
    """
    with _failing(tokenizer):
        text = tokenizer.apply_chat_template(
            list(messages),
            tools=tools and list(tools),
            chat_template=_source(tokenizer, template, tools),
            tokenize=False,
            add_generation_prompt=generation_prompt,
        )
    return str(text)


def marked_answers(
    tokenizer: Any, template: str | None, messages: Sequence[Message], tools: Sequence[Any] | None
) -> list[tuple[int, int]] | None:
    """Where in the text of `render` the parts begin and end that the template marks by {% generation %}; None where it marks none.

    Raises:
        InputError: as `render`.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    with _failing(tokenizer):
        source = _source(tokenizer, template, tools)
        if not _MARKED.search(source):
            return None
        _, places = render_jinja_template(
            [list(messages)],
            tools=tools and list(tools),
            chat_template=source,
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
    return [(start, end) for start, end in places[0] if end > start]


def _source(tokenizer: Any, template: str | None, tools: Sequence[Any] | None) -> str:
    """The text of the template in force; a tokenizer may have one of its own for conversations with tools."""
    return _with_still_clock(template or tokenizer.get_chat_template(tools=tools and list(tools)))


@contextmanager
def _failing(tokenizer: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever Jinja, the template's own raise_exception or an operator in it raises
        reason = str(error).strip().splitlines()
        raise InputError(
            f"the chat template{_of(tokenizer)} fails ({type(error).__name__}: {reason[0] if reason else ''}); correct "
            'chat_template of this model, or set it to "tulu".'
        ) from error


def _with_still_clock(template: str) -> str:
    """A template whose `strftime_now` is a macro of its own (transformers passes texts to templates, no functions)."""
    if "strftime_now" not in template:
        return template
    replaced = "".join(f".replace({asked!r}, {said!r})" for asked, said in {**_LONGER, **TODAY}.items())
    # trim_blocks takes the newline, so that the template's own first line is a first line still.
    return "{% macro strftime_now(format) %}{{ format" + replaced + " }}{% endmacro %}\n" + template


def check_template(tokenizer: Any, template: str | None) -> None:
    """Renders a small conversation and looks for both of its texts in what comes out.

    Raises:
        InputError: the template is a mere name, fails, draws at random, prints a variable that nobody sets, or drops a
            message.
    """
    if template is not None and "{{" not in template and "{%" not in template:
        raise InputError(
            f'chat_template = "{template}" is no template; it is "tulu", "model" (the tokenizer\'s own) or the text of a '
            "Jinja template."
        )
    messages = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}]
    whole = render(tokenizer, template, messages, generation_prompt=False)
    prompt = render(tokenizer, template, messages[:1], generation_prompt=True)
    for text, rendered, what in (
        (_USER, whole, "user message"),
        (_USER, prompt, "user message of a prompt"),
        (_ASSISTANT, whole, "answer"),
    ):
        if text not in rendered:
            raise InputError(
                f"the chat template{_of(tokenizer)} leaves out the {what}; correct chat_template of this model, or set "
                'it to "tulu".'
            )
    if chance := _chance(template or tokenizer.get_chat_template()):
        raise InputError(
            f"the chat template{_of(tokenizer)} draws at random ({chance}), so that a sample would have other tokens every time; "
            "correct chat_template of this model."
        )
    if unknown := _printed_unknowns(template or tokenizer.get_chat_template(), set(tokenizer.special_tokens_map)):
        raise InputError(
            f"the chat template{_of(tokenizer)} prints {unknown[0]}, which nobody sets; correct the name in chat_template "
            "of this model."
        )


def tokens_behind_answer(tokenizer: Any, template: str | None) -> int:
    """How many tokens a template puts behind an answer at the end of a conversation."""
    messages = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}]
    whole = render(tokenizer, template, messages, generation_prompt=False)
    behind = whole[whole.rindex(_ASSISTANT) + len(_ASSISTANT) :]
    return len(tokenizer(behind, add_special_tokens=False)["input_ids"]) if behind else 0


def opens_answers(tokenizer: Any, template: str | None) -> bool:
    """Whether a template has a generation prompt: a header that opens the answer."""
    user = [{"role": "user", "content": _USER}]
    return render(tokenizer, template, user, True) != render(tokenizer, template, user, False)


def _chance(template: str) -> str | None:
    """What in a template gives another text every time; None for nothing."""
    from jinja2 import nodes

    tree = _parsed(template)
    filters = {node.name for node in tree.find_all(nodes.Filter)} & {"random"}
    functions = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "load"} & {"lipsum"}
    return next(iter(filters | functions), None)


def _printed_unknowns(template: str, known: set[str]) -> list[str]:
    """Variables that a template prints as they are although it is given none of that name: Jinja prints nothing then."""
    from jinja2 import meta, nodes

    tree = _parsed(template)
    given = {"messages", "tools", "documents", "add_generation_prompt", *known, *_SPECIAL_TOKENS}
    given |= {node.name for node in tree.find_all(nodes.Name) if node.ctx == "store"}  # perhaps in a branch
    unset = meta.find_undeclared_variables(tree) - given
    printed = [node for output in tree.find_all(nodes.Output) for node in output.nodes if isinstance(node, nodes.Name)]
    return sorted({node.name for node in printed} & unset)


def _parsed(template: str) -> "nodes.Template":
    """The syntax tree of a template that was rendered; an empty one where it has tags of transformers' own."""
    import jinja2

    try:
        return jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except jinja2.TemplateSyntaxError:
        return jinja2.Environment().parse("")


def _of(tokenizer: Any) -> str:
    name = getattr(tokenizer, "name_or_path", "")
    return f" of {name}" if name else ""
