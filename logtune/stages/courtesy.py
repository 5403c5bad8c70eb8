"""A user's words -> whether they are nothing but thanks or praise, or begin with it and go on; in many languages.

The shipped detector learned from 18 turns of praise, too few: it takes "thx" and "谢谢" for complaints. A turn of
nothing but thanks, praise and courtesies needs no classifier: they are cut out, and no word is left.
"""

import re
from typing import Literal, NamedTuple

from logtune.stages.wording import DOUBT

READ = 400  # characters; longer texts are about something else
Kind = Literal["praise", "thanks", "reply", "more", ""]


class Courtesy(NamedTuple):
    """`reply`: "no, thanks", or a yes to a question; `more`: thanks or praise, then something else; "": neither."""

    kind: Kind
    rest: str = ""  # what follows, of `more`


def _words(listed: str) -> str:
    """An expression for any of the phrases, many a line; the first that fits is taken."""
    return "|".join(re.sub(r"\s+", r"[\\s,]+", line.strip()) for line in listed.strip().splitlines())


THANKS = _words(r"""
    thank (?:you|u)|thanks|thankyou|than[kx]s?|thn?x|tnx|tks|tysm|ty|cheers|much appreciated|kudos
    (?:I )?(?:really |do )?appreciate (?:it|that|this|your help|the help)
    danke\w*|(?:viel|herzlich|best|tausend)en dank|merci|je (?:vous|te) remercie|gracias|te lo agradezco
    obrigad[oa]|obg|valeu|agradeço|grazie|ti ringrazio|la ringrazio|dank (?:je|u)|dankjewel|dankuwel|bedankt
    dzi[ęe]k(?:uj[ęe]|i)|спасибо|спс|благодар(?:ю|им)|дякую|tack|takk?|teşekkür(?:ler)?|sağ ?ol\w*|děkuji|díky
    mulțumesc
""")
HAN_THANKS = (
    "谢谢|謝謝|多谢|谢了|感谢|ありがとう(?:ございま(?:す|した))?|感謝(?:します)?|どうも|감사(?:합니다|해요)"
    "|고맙습니다|고마워요?|شكرا|תודה|धन्यवाद|शुक्रिया"
)
# Nobody means anything else by these.
PRAISE = _words(r"""
    perfect(?:ly)?|awesome|excellent|amazing|brilliant|wonderful|fantastic|superb?|lovely|marvell?ous|terrific
    outstanding
    great|well done|nailed it|spot on|bravo|good (?:job|work|answer|bot|one)|nice (?:job|work|answer|one)|not bad
    (?:I )?(?:really |just |absolutely )?(?:love|loved) (?:it|this|that|the answer|your answer)
    (?:I )?(?:really )?like (?:it|this|that|the answer|your answer)|you rock
    you'?re? (?:the best|a (?:legend|life ?saver|star|genius))
    (?:(?:that|this|it)(?:'s| has)? )?(?:just |really )?(?:solved|fixed|sorted) (?:it|my (?:problem|issue))
    (?:(?:that|this|it)(?:'s| has)? )?(?:just |really )?(?:solved|fixed|sorted|did) the (?:problem|issue|trick)
    (?:problem|issue) (?:is )?(?:solved|fixed)
    (?:that|this|it) (?:really |totally |just )?(?:helped|helps)(?: me)?(?: a lot| so much| very much)?
    (?:(?:it|that|this) )?works? (?:now|great|well|perfectly|fine|like a charm)|(?:it|that|this) works|that worked
    works
    (?:exactly|just|precisely) what I (?:needed|wanted|was looking for|meant|asked for|was after)
    (?:so |very |really )helpful|much better
    10/10|100 ?%|(?:five|5) stars?
    super|toll|klasse|prima|perfekt|ausgezeichnet|hervorragend|gro(?:ß|ss)artig|genial|wunderbar|spitze
    sehr (?:gut|hilfreich|schön)
    (?:das )?(?:hat|hilft) (?:mir )?(?:sehr |wirklich )?(?:geholfen|weiter)|(?:das |es )?(?:funktioniert|klappt)
    gut gemacht
    parfait|génial|excellent|formidable|magnifique|impeccable|nickel|très (?:bien|utile|clair)
    (?:ça|cela) (?:marche|fonctionne|m'aide)
    bon travail|perfecto|genial|excelente|estupendo|fantástico|maravilloso|buenísimo|muy (?:bien|bueno|útil)
    me (?:sirvió|ayudó|sirve)
    funcion[aó]u?|perfeito|[óo]timo|maravilh\w+|incrível|muito (?:bom|bem|útil)|ajudou|isso mesmo|show de bola
    perfetto|ottimo|eccellente|fantastico|bravissim[oa]|stupendo|molto (?:bene|utile)|benissimo|funziona
    sei (?:un genio|grande)
    geweldig|uitstekend|fantastisch|top|(?:heel|zeer|erg) (?:goed|handig|nuttig)|(?:het |dat )?werkt|goed gedaan
    świetn(?:ie|e|a)|doskonale|idealnie|znakomicie|rewelacja|bardzo (?:dobrze|dobre|pomocne)|(?:to )?działa|pomogło
    o to chodziło
    отличн[оа]|прекрасно|супер|великолепно|замечательно|здорово|идеально|молодец|круто|(?:очень )?помогло
    (?:всё |все )?(?:за)?работает|очень (?:хорошо|полезно)
    именно то,? что (?:нужно|надо|я хотел\w?)|чудово|jättebra|toppen|perfekte|harika|mükemmel|çok (?:iyi|güzel)
    výborně|skvělé
""")
HAN_PRAISE = (
    "太好了|很好|非常好|完美|很?不错|[真太很]棒了?|厉害|很?有帮助|解决了|太赞了|满意|完璧|素晴らしい|すばらしい"
    "|最高|いいですね|助かり(?:ました|ます)|解決しました|役に立ちました|うまくいきました|動きました|완벽\\w*|좋아요"
    "|훌륭\\w*|ممتاز|رائع|מצוין|מעולה|बहुत अच्छा|[👍👏👌🙏💯🎉🥰😍🤩❤♥💖🙌]"
)
# Praise when nothing else is said; else these may begin a correction. To a question they are answers.
AGREES = _words(r"""
    correct|right|exactly|precisely|true|indeed|agreed|you'?re right|you are right|that'?s it|good|nice|cool|neat
    sweet|fine|helpful
    useful|clear|better|beautiful|solved|fixed|worked|very good
    gut|stimmt|richtig|genau|korrekt|passt|schön|hilfreich|bien|bon|exact(?:ement)?|correcte?|juste|utile
    c'est (?:ça|bon)
    bueno|correcto|exacto|exactamente|así es|útil|bom|boa|certo|correto|exato|exatamente|bene|buono|giusto|corretto
    esatt[oa](?:mente)?
    goed|mooi|klopt|juist|precies|handig|opgelost|dobrze|dobre|dokładnie|zgadza się|верно|правильно|точно|хорошо
    решено|понятно
    bra|doğru|güzel
""")
HAN_AGREES = "对的|正确|没错|好的|有用|可以了|明白了|正解|その通り|わかりました|いいです|良い"
# What may stand beside them. Nothing that denies, asks or points at a fault.
BESIDE = _words(r"""
    my (?:mistake|bad)|have a (?:nice|good|great) (?:day|one|evening|weekend)|you too|what i (?:needed|wanted|meant)
    a|an|the|so|very|really|such|quite|pretty|truly|absolutely|totally|much|many|very much|lots?|lot of|a lot|it|this
    that|these|was|is
    are|were|that'?s|it'?s|it'?ll|again|for|your|you|u|my|me|i|i'm|am|we|to|and|of|with|all|everything|now|just|also
    indeed|as|always
    help(?:ed|ing|ful)?|answers?|answering|explanation|explaining|repl(?:y|ies)|response|info(?:rmation)?|advice
    solution|work|job|code|stuff|time
    quick|quickly|fast|clear|detailed|ok|okay|oh|ah|wow|hey|hi|hello|bye|goodbye|see you|yes|yeah|yep|sure|got it
    i see|understood|makes sense
    man|mate|dude|bro|buddy|friend|sir|god|lol|haha\w*
    million|ton|bunch|sorry|happy|glad
    das|es|ist|war|mir|sehr|so|jetzt|hat|alles|für|die|der|den|deine?|ihre?|hilfe|antwort|erklärung|ja|auch|wirklich
    viel|ganz|dir|ihnen|vielmals
    tschüss|nochmal|schnelle|geholfen|tolle|gute
    c'est|c'était|très|beaucoup|bien|ça|cela|m'a|a|est|était|le|la|les|pour|votre|ton|ta|vos|tes|l'aide|aide|aidé
    réponse|explication|oui|tout|à fait|vraiment
    infiniment|mille|d'accord|ce que je (?:voulais|cherchais)
    muy|muchas|muchísimas|mil|por|tu|su|el|ayuda|respuesta|sí|si|es|está|me|ha|servido|eso|esto|todo|lo|que|necesitaba
    quería|ya|ahora|de verdad
    muito|muita|pela|pelo|ajuda|resposta|sua|tua|sim|é|era|isso|bastante|tudo|agora|o|que eu (?:queria|precisava)
    demais|mesmo
    mille|molto|tante|per|il|l'|risposta|aiuto|sì|va|ora|adesso|tutto|mi|hai|aiutato|proprio|quello
    che (?:cercavo|volevo)|davvero|sei|stato|gentil(?:e|issimo)
    het|dat|heel|erg|zeer|veel|hartelijk|voor|je|uw|de|hulp|antwoord|uitleg|ja|nu|helemaal|heb|hebt|heeft|mij|wel|zo
    duidelijk|geholpen
    bardzo|wielkie|serdecznie|za|pomoc|odpowiedź|to|jest|tak|już|teraz|mi|wszystko
    большое|огромное|вам|тебе|вас|тебя|за|помощь|ответ|объяснение|это|то|что (?:нужно|надо)|всё|все|очень|теперь|да
    мне|именно|вы|ты|я|так|и
    щиро|дуже|så|mycket|mange|tusen|çok|ederim|için|moc
""")
HAN_BESIDE = (
    "你们?|您|的|了|很|非常|十分|太|真|是|这个?|就|我|想要|需要|要|回答|帮助|解答|啊|吧|呀|哦|问题|已经|大家"
    "|とても|本当に|大変|ございます|です|ました|回答|説明|これで|ね|よ|جزيلا|جدا|정말|너무|רבה"
)
WRONG = re.compile(
    r"(?<!\w)(?:not(?! bad)|\w+n['’]?t|no|never|none|nothing|wrong|still|incorrect|false|old|outdated|"
    r"mistakes?|errors?|fail\w*|broken|useless|missing|"
    r"nicht|kein\w*|falsch|fehler\w*|pas|ne|faux|erreur|jamais|nunca|no|incorrect[oa]|não|errad[oa]|non|"
    r"sbagliat[oa]|niet|geen|fout|verkeerd|"
    r"nie|źle|błęd\w*|не|нет|неправильн\w*|неверн\w*|ошибк\w*)(?!\w)|[不没沒错錯误]|ない|ません|違|間違|틀렸|"
    r"아니|👎|🙄|😡|😠|🤬|🙃|😒|🤡",
    re.IGNORECASE,
)
TURNS = re.compile(
    r"(?<!\w)(?:but|however|though|although|except|aber|jedoch|mais|pero|sin embargo|mas|porém|ma|però|maar|"
    r"ale|jednak|но|однако|ama|men)"
    r"(?!\w)|但|不过|可是|でも|しかし|けど|하지만",
    re.IGNORECASE,
)
IRONIC = re.compile(
    r"\bfor (?:nothing|wasting)\b|\bamazing (?:how|that)\b|"
    r"\bsuper[^\S\n]+(?:slow|bad|annoying|frustrating|unhelpful|wrong)\b|"
    r"\bno,? but thanks|thanks,? but no\b|^\W*yeah,? right|\bas if\b|^\W*oh,? (?:great|"
    r"brilliant|wonderful|perfect|lovely)\b|\bnice try\b"
    r"|\bgood luck\b|\banother\b|\bgreat,? now (?:it|(?:all )?my|i|the)\b|für nichts|pour rien|por nada|per niente",
    re.IGNORECASE,
)
DECLINED = re.compile(
    rf"^\W*(?:(?:no+|nope|nah|nein|non|não|nee|nie|нет)\W+(?={THANKS}\b)"
    r"|(?:no+|nope|nah)\W+(?:that'?s|that is|it'?s|all)\b)",
    re.IGNORECASE,
)
_ENDS = r"(?!'?\w)"
HEAD = re.compile(
    rf"^(?:\W*(?<!\w)(?:ok|okay|oh|wow|ah|yes|yeah|cool|ja|oui|sí|sim|sì|tak|да){_ENDS})*\W*"
    rf"(?:(?<!\w)(?:{THANKS}|{PRAISE}){_ENDS}|{HAN_THANKS}|{HAN_PRAISE})\W*",
    re.IGNORECASE,
)
PRAISING, THANKING, AGREEING, STANDING_BY = (
    re.compile(rf"(?<!\w)(?:{words}){_ENDS}|{han}", re.IGNORECASE)
    for words, han in ((PRAISE, HAN_PRAISE), (THANKS, HAN_THANKS), (AGREES, HAN_AGREES), (BESIDE, HAN_BESIDE))
)
ANY_WORD = re.compile(r"[^\W_]")


def courtesy(text: str, answer: str = "") -> Courtesy:
    """What thanks and praise there is in what a user said after the answer."""
    said = text.strip().replace("’", "'")
    if len(said) > READ or IRONIC.search(said):
        return Courtesy("")
    declined = DECLINED.match(said)
    kind = _alone(said[declined.end() :] if declined else said)
    if declined is not None:
        return Courtesy("reply" if kind or not ANY_WORD.search(said[declined.end() :]) else "")
    if kind == "agrees":
        return Courtesy("reply" if answer.rstrip().endswith(("?", "？")) else "praise")
    if kind:
        return Courtesy(kind)
    head = HEAD.match(said)
    if head is None or WRONG.search(said) or TURNS.search(said):
        return Courtesy("")
    return Courtesy("more", said[head.end() :])


def _alone(said: str) -> Literal["praise", "thanks", "agrees", ""]:
    """What a text is that has no word beside its courtesies."""
    if "?" in said or "？" in said or "👎" in said or DOUBT.search(said):
        return ""
    counts = []
    for pattern in (PRAISING, THANKING, AGREEING, STANDING_BY):
        said, count = pattern.subn(" ", said)
        counts.append(count)
    if ANY_WORD.search(said) or not any(counts[:3]):
        return ""
    return "praise" if counts[0] else "agrees" if counts[2] and not counts[1] else "praise" if counts[2] else "thanks"
