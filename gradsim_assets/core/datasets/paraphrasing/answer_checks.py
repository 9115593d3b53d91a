"""Cheap checks of an answer: is it a rewrite of the text, whole, and not something else?"""

import re
import unicodedata
from collections import Counter
from functools import lru_cache

from gradsim_assets.core.datasets.paraphrasing.answer_store import REJECTED, Answer, AnswerStore
from gradsim_assets.core.datasets.paraphrasing.options import ParaphraserOptions
from gradsim_assets.core.datasets.paraphrasing.request import Request

_REFUSAL = re.compile(
    r"\W*(i['’]?m sorry|i am sorry|sorry,|i apologi[sz]e|i can['’]?t\b|i cannot\b|i['’]?m unable|i am unable|i won['’]?t\b|"
    r"as an ai\b|i['’]?m not able to|unfortunately, i can)",
    re.IGNORECASE,
)
_REFUSAL_CORE = re.compile(
    r"\b(can['’]?t|cannot|unable|not able|won['’]?t|as an ai|apologi[sz]e)\b.{0,60}"
    r"\b(help|assist|rewrite|paraphrase|comply|provide|do that|fulfil+|request|language model|content|with that|with this)",
    re.IGNORECASE | re.DOTALL,
)

_IMPERATIVES = (
    "add|advise|analy[sz]e|answer|assist|begin|brainstorm|break|build|calculate|check|choose|clarify|classify|come|compare|compile|complete|"
    "compose|compute|convert|correct|craft|create|define|demonstrate|describe|design|determine|develop|devise|discuss|"
    "draft|draw|edit|elaborate|enumerate|evaluate|explain|express|extract|fill|find|fix|formulate|generate|give|help|"
    "identify|illustrate|imagine|implement|improve|list|make|name|offer|outline|pen|plan|prepare|present|produce|propose|"
    "provide|pick|put|recommend|remove|render|reply|rewrite|say|share|show|sketch|solve|spell|start|state|suggest|summari[sz]e|take|teach|tell|turn|"
    "translate|use|walk|work|write"
)
_QUESTION_WORDS = "are|can|could|did|do|does|has|have|how|is|may|must|should|was|were|what|when|where|which|who|whom|whose|why|will|would"

#: A text that asks or orders in English, by its first word or the last sentence's.
_ASKS = re.compile(
    rf"\W*(please\W+)?({_IMPERATIVES}|{_QUESTION_WORDS})\b|.*[.!?:\n]\s+({_QUESTION_WORDS})\b[^.?!]*\?\W*$",
    re.IGNORECASE | re.DOTALL,
)

#: Signs that a text still asks or orders: a question, an imperative that opens a sentence, someone who speaks for himself.
_STILL_ASKS = re.compile(
    rf"\?|\b(please|i|me|my|we|us|our)\b|(^|[.!:;,\n]\s*|\b(and|then|to|you)\s+)\W*({_IMPERATIVES})\b", re.IGNORECASE
)

#: Frequent words of languages that share a script.
_WORDS = {
    "en": "the and of to is in that for with you this are it be not have what how from can",
    "de": "der die das und ist nicht ein eine ich sie mit für auf den zu von wie was auch sind",
    "fr": "le la les de des est une dans pour que qui pas vous et avec sur ce du il sont au",
    "es": "el la los las de una que es en por para con no del se como más pero su qué está y",
    "it": "il la gli che di è una per non con del della sono come più questo nel ma anche si lo",
    "pt": "os de uma que não para com em por mais como do da dos das você são seu na no é",
    "nl": "de het een van en is dat niet op voor met zijn die te aan wat hoe ook maar bij",
}
_BY_WORD: dict[str, list[str]] = {}
for _language_name, _words in _WORDS.items():
    for _word in _words.split():
        _BY_WORD.setdefault(_word, []).append(_language_name)

#: A whole sentence of frequent words tells a language; fewer may be a name or a quotation.
_FEW_WORDS = 4

#: An answer is between these multiples of the text's length; short texts may grow by some words.
_SHORTEST, _LONGEST, _GRACE = 0.35, 2.5, 60


@lru_cache(maxsize=10_000)  # asked for again as answers are stored, counted and put together
def fault(text: str, answer: Answer, role: str) -> str | None:
    """Why an answer is no sound rewrite of the text; None for one that passes.

    The faults: `cut`, `filtered`, `unfinished` (by finish reason), `refusal`, `empty`, `identical`, `language`,
    `length`, and `answered` for a user's question or instruction that was followed instead of rewritten.
    """
    found = _unfinished(answer)
    if found:
        return found
    if _plain(answer.text) == _plain(text):
        return "identical"
    if _language_changed(text, answer.text):
        return "language"
    if not _SHORTEST * len(text) <= len(answer.text) <= _LONGEST * len(text) + _GRACE:
        return "length"
    if role == "user" and _ASKS.match(text) and not _STILL_ASKS.search(answer.text):
        return "answered"
    return "refusal" if _refuses(answer.text) and not _refuses(text) else None


def is_final(request: Request, answer: Answer) -> bool:
    """Whether no further attempt is due: the answer is sound, or the text is not taken at all."""
    return answer.finish_reason == REJECTED or fault(request.text, answer, request.role) is None


def is_settled(request: Request, options: ParaphraserOptions, store: AnswerStore) -> bool:
    """Whether the store holds a final answer, or all the attempts that there are to be."""
    found = store.attempts(request.key)
    return len(found) >= options.attempts or any(is_final(request, answer) for answer in found)


def _unfinished(answer: Answer) -> str | None:
    if answer.finish_reason == REJECTED:
        return f"rejected ({answer.refusal})"
    if answer.refusal:
        return "refusal"
    if answer.finish_reason != "stop":
        return {"length": "cut", "content_filter": "filtered"}.get(answer.finish_reason, "unfinished")
    return None if answer.text.strip() else "empty"


def _refuses(text: str) -> bool:
    head = text[:300]
    return bool(_REFUSAL.match(head) and (_REFUSAL_CORE.search(head) or len(text) < 80))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _language_changed(text: str, answer: str) -> bool:
    scripts = _script(text), _script(answer)
    if None not in scripts and scripts[0] != scripts[1]:
        return True
    languages = _language(text), _language(answer)
    return None not in languages and languages[0] != languages[1]


def _script(text: str) -> str | None:
    """The script of most letters (LATIN, CYRILLIC, CJK, ...); None where none clearly leads."""
    letters = [character for character in text[:1000] if character.isalpha()]
    if len(letters) < 10:
        return None
    if text[:1000].isascii():
        return "LATIN"
    counts = Counter("LATIN" if c < "\u0250" else unicodedata.name(c, "?").split()[0].split("-")[0] for c in letters)
    # Japanese mixes its own two with Chinese characters.
    for kana in ("HIRAGANA", "KATAKANA"):
        counts["CJK"] += counts.pop(kana, 0)
    script, count = counts.most_common(1)[0]
    return script if count > 0.7 * len(letters) else None


def _language(text: str) -> str | None:
    """The language whose frequent words clearly lead; None where none does."""
    words = re.findall(r"[^\W\d_]+", text[:2000].lower())
    hits = Counter(language for word in words for language in _BY_WORD.get(word, ()))
    scores = sorted(((hits[language], language) for language in _WORDS), reverse=True)
    (best, language), (second, _) = scores[:2]
    return language if best >= _FEW_WORDS and best > 1.5 * second else None
