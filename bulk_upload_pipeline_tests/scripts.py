"""Texts of many scripts, and the encodings in which files with such texts come."""

from __future__ import annotations

SCRIPTS = {
    "western": ("Café crème, à emporter", "Käse & Brötchen: Größe Ü", "Piñata, señor", "Crème brûlée d'Été"),
    "central": ("Żółty ser z Łodzi", "Příliš žluťoučký kůň", "Túrós rétes őszi", "Čokoláda s oříšky"),
    "turkish": ("Antep fıstıklı baklava", "Güllü lokum çeşitleri", "Şekerpare ığdır", "Kuru üzüm çöreği"),
    "cyrillic": ("Пахлава медовая с орехами", "Конфеты в коробке", "Халва подсолнечная", "Зефир ванильный"),
    "greek": ("Μπακλαβάς με καρύδια", "Λουκούμι τριαντάφυλλο", "Χαλβάς με κακάο", "Καταΐφι σιροπιαστό"),
    "hebrew": ("עוגיות שוקולד ביתיות", "חלווה עם פיסטוק", "ממתקים מעורבים בקופסה"),
    "arabic": ("بقلاوة بالفستق الحلبي", "حلويات مشكلة في علبة", "معمول بالتمر والجوز"),
    "thai": ("ขนมไทยรวมกล่องใหญ่", "ทองหยิบทองหยอด", "ขนมชั้นใบเตย"),
    # Of some of these characters the second byte is that of "|" or "\" in ASCII.
    "japanese": (
        "抹茶チョコレート詰め合わせ",
        "和菓子の箱、十二個入り",
        "せんべい醤油味",
        "表示ソース能力ポ",
    ),
    "simplified": ("什锦糖果礼盒装", "杏仁巧克力饼干", "花生酥糖大包", "传统月饼礼盒"),
    "traditional": ("綜合糖果禮盒", "杏仁巧克力餅乾", "花生酥糖大包裝", "鳳梨酥與功許蓋"),
    "korean": ("모둠 사탕 선물 상자", "아몬드 초콜릿 과자", "땅콩 강정 큰 봉지"),
}
SCRIPTS["all"] = (
    "₹ 45, काजू कतली",
    "ગુજરાતી મીઠાઈ",
    "क्\u200dष",
    "e\u0301",
    "🍬🍭",
    *(some[0] for some in SCRIPTS.values()),
)

FOUND = {
    "utf-8": "all",
    "utf-8-sig": "all",
    "utf-16-le": "western",
    "utf-16-be": "western",
    "utf-32-le": "western",
    "utf-32-be": "western",
    "utf-16-le with a mark": "all",
    "utf-16-be with a mark": "all",
    "utf-32-le with a mark": "all",
    "utf-32-be with a mark": "all",
    "cp1252": "western",
    "iso8859-1": "western",
    "cp1251": "cyrillic",
    "koi8-r": "cyrillic",
    "iso8859-5": "cyrillic",
    "cp866": "cyrillic",
    "mac-cyrillic": "cyrillic",
    "cp1253": "greek",
    "iso8859-7": "greek",
    "cp1255": "hebrew",
    "cp1256": "arabic",
    "iso8859-6": "arabic",
    "cp874": "thai",
    "cp932": "japanese",
    "euc-jp": "japanese",
    "gb18030": "simplified",
    "gbk": "simplified",
    "big5": "traditional",
    "cp949": "korean",
    "johab": "korean",
}
"""Encodings that are told by the bytes themselves, each with the script of such files."""

STATED = {
    "utf-16-le": "all",
    "utf-32-be": "all",
    "utf-7": "all",
    "gb18030": "all",
    "iso8859-15": "western",
    "mac-roman": "western",
    "cp850": "western",
    "cp437": "western",
    "cp1250": "central",
    "iso8859-2": "central",
    "cp852": "central",
    "mac-latin2": "central",
    "cp1254": "turkish",
    "iso8859-9": "turkish",
    "iso8859-8": "hebrew",
    "iso2022-jp": "japanese",
    "shift-jis": "japanese",
    "hz": "simplified",
}
"""Encodings that look like others where there is little text, so that a person or a profile may have to name them."""


def codec_of(encoding):
    return encoding.removesuffix(" with a mark")


def writable(text, encoding):
    """The text without the characters that an encoding does not have."""
    return text.encode(codec_of(encoding), "ignore").decode(codec_of(encoding))


def encoded(text, encoding):
    """UTF-8 in another encoding."""
    mark = "\ufeff" if encoding.endswith(" with a mark") else ""
    return (mark + text.decode()).encode(codec_of(encoding))
