"""Refusals in prose: what a model says that will not rewrite a text, or that has not understood that it got one."""

import re

_NOT = r"(can['’]?t|cannot|can not|unable|not able|won['’]?t)"
_REWRITE = r"(paraphras\w*|re-?writ\w*|rephras\w*|reword\w*)"

#: How a refusal begins, and what it goes on to say, by language.
_PHRASES = (
    (
        r"\W*((i['’]?m|i am|we['’]?re|we are) (very |so |really |truly )?(sorry|afraid|unable|not (able|comfortable|allowed))|"
        r"sorry\b|((my|our|sincere) )*apologies|i apologi[sz]e|i (can|won|don|do)['’]? ?(t|not)\b|i cannot|"
        r"i (must|have to|need to) (decline|refuse)|as an? (ai|language model)\b|unfortunately,? (i|we)\b|unable to|"
        r"(this|the|your) (content|request|text|message|prompt)\b)",
        rf"\b({_NOT}|not comfortable|not allowed|as an ai|apologi[sz]e|decline|refuse|violates?|goes against)\b.{{0,60}}"
        rf"\b(help|assist|{_REWRITE}|comply|provide|do (that|this|so)|fulfil+|request|language model|content|with (that|this|it)|"
        r"guidelines|polic(y|ies)|engage|discuss|process)",
    ),
    (
        r"\W*((es )?tut mir (sehr )?leid|leider|entschuldigung|ich (kann|darf))",
        r"\b((kann|darf) ich|ich (kann|darf))\b.{0,60}\b(nicht|kein\w*)\b",
    ),
    (r"\W*(je (suis|m['’]excuse)|désolée?|je ne (peux|puis))", r"\bje (ne|n['’])\s?(peux|puis|suis)\b.{0,20}\bpas\b"),
    (r"\W*(lo siento|lamento|no puedo|perdón|disculp)", r"\bno (puedo|me es posible|soy capaz)\b"),
    (r"\W*(mi dispiace|spiacente|non posso|scus)", r"\bnon (posso|sono in grado|mi è possibile)\b"),
    (r"\W*(sinto muito|lamento|desculp|não posso|infelizmente)", r"\bnão (posso|consigo|me é possível)\b"),
    (r"\W*(извините|простите|к сожалению|прошу прощения|я не могу)", r"не (могу|в состоянии)"),
    (r"\W*(很?抱歉|对不起|對不起|不好意思|我(无法|不能|無法))", r"无法|不能|無法|不可以|没办法"),
    (r"\W*(申し訳|すみません|恐れ入り|ごめん)", r"できません|いたしかねます|できかねます"),
    (r"\W*(죄송|미안)", r"수 없|않습니다"),
)
_REFUSALS = [
    (re.compile(begins, re.IGNORECASE), re.compile(says, re.IGNORECASE | re.DOTALL)) for begins, says in _PHRASES
]

#: A short answer of this kind is a refusal whatever it is about.
_SHORT = 80
_SAYS_NO = re.compile(
    rf"\W*(i['’]?m (sorry|afraid)|i am (sorry|afraid)|sorry|apologies|i apologi[sz]e)\b.{{0,40}}\b{_NOT}\b|"
    rf"\W*i (am )?{_NOT}( do (that|this|it|so))?\W*$",
    re.IGNORECASE,
)

#: A model that asks for the text which it has got.
_ASKS_FOR_IT = re.compile(
    r"\b(provide|share|send|paste|give|enter|specify)\b.{0,40}\b(text|sentence|passage|message|content)\b.{0,60}"
    rf"\b{_REWRITE}",
    re.IGNORECASE | re.DOTALL,
)

#: A text that speaks so may have been rewritten to what looks like a refusal, unless that is of the plainest kind.
_NEAR = re.compile(rf"\b(sorry|apolog\w+|{_NOT}|ai|language model|assistant|decline|refuse)\b", re.IGNORECASE)
_PLAINEST = re.compile(
    r".{0,20}\b(sorry|apologi[sz]e|apologies|afraid|unable to)\b.{0,60}"
    rf"\b(help|assist|with (that|this)|request|comply|fulfil+|{_REWRITE})\b",
    re.IGNORECASE | re.DOTALL,
)


def refuses(text: str) -> bool:
    """Whether a text is a refusal, or a request for a text to be rewritten; judged by its first 300 characters."""
    head = text[:300]
    if any(begins.match(head) and says.search(head) for begins, says in _REFUSALS):
        return True
    if len(text) < _SHORT and _SAYS_NO.match(head):
        return True
    return bool(_ASKS_FOR_IT.search(head))


def refuses_to_rewrite(rewriting: str, text: str) -> bool:
    """Whether an answer certainly is a refusal, and not the rewriting of a text that speaks alike."""
    if not refuses(rewriting) or refuses(text):
        return False
    return bool(_PLAINEST.match(rewriting)) or not _NEAR.search(text)
