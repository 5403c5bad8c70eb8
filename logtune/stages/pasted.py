"""A user's turn -> whether it asks about something else that was pasted: a log, a file, another program.

Error messages in a turn are mostly what came of the answer's code, so the detector takes them all for complaints.
"""

import re

READ = 4000  # characters
PROGRAM = (
    r"(?:\w+\s+)?(?:scripts?|programs?|projects?|apps?|codebase|code|files?|servers?|machines?|computers?|class|module"
    r"|functions?)\b"
)
ELSEWHERE = re.compile(
    r"\b(?:(?:my|our|a|an|his|her|their|some)\s+(?:other|different|separate|unrelated|second|old(?:er)?|another)"
    rf"|another|(?:somebody else|someone else|a colleague|a friend)['’]s)\s+{PROGRAM}",
    re.IGNORECASE,
)
# "what does this log mean?": the thing that was pasted, not what the answer did.
ABOUT_IT = re.compile(
    r"\b(?:what (?:does|do|is|are|did)|explain|interpret|summari[sz]e|translate|analy[sz]e|read|que signifie"
    r"|was (?:bedeutet|heißt|ist)|qué significa|cosa significa|что (?:значит|означает))\s+(?:\w+\s+){0,3}?"
    r"(?:this|these|the following|my|dieses?r?|ces?|cette|este|esta|questo|этот)\s+(?:\w+\s+)?(?:logs?|text|e-?mail"
    r"|letter|documents?|config\w*|dump|paragraphs?|articles?|contract|invoice|protokoll|журнал)\b"
    r"|[这這][段个份]?(?:日志|日誌|文本|邮件)",
    re.IGNORECASE,
)


def about_pasted(text: str, answer: str) -> bool:
    """Whether an error in a turn is that of something else, which the answer before did not make."""
    said = text[:READ]
    if ELSEWHERE.search(said):
        return True
    if not ABOUT_IT.search(said):
        return False
    pasted = [line for line in said.splitlines() if line.strip()]
    return len(pasted) > 1 and not any(line.strip() in answer for line in pasted[:-1])
