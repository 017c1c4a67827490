"""Which encoding a text is in, and its bytes as UTF-8, however it is cut into blocks."""

from __future__ import annotations

import codecs
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulk_upload_pipeline.exceptions import UnreadableError
from bulk_upload_pipeline.recognising import encodings
from bulk_upload_pipeline.recognising.encodings import detect, stated_encoding, utf8_blocks

TEXT = "Rechnung;Kunde\n1;Café Müller, Zürich\n2;Ca' d’Oro – 12 €\n" * 20


def as_utf8(content, codec, block=7):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "BLOCK_BYTES", block)
        return b"".join(utf8_blocks(io.BytesIO(content), codec))


@given(
    st.lists(
        st.sampled_from(
            [b"a", b"\n", b"\xc3", b"\xa9", b"\xe2\x82\xac", b"\xf0\x9f\x8d\xac", b"\xff", b"\x80"]
        )
    ),
    st.integers(1, 9),
)
def test_bytes_are_decoded_as_python_decodes_them_at_once_wherever_blocks_end(pieces, block):
    content = b"".join(pieces)
    assert as_utf8(content, "utf-8", block).decode() == content.decode("utf-8", "replace")


@given(
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "utf-32-le"]),
    st.integers(1, 9),
)
def test_a_text_comes_out_as_it_was_without_its_mark(text, codec, block):
    mark = "" if text.startswith("\ufeff") else "\ufeff"
    assert as_utf8((mark + text).encode(codec), codec, block).decode() == text.removeprefix("\ufeff")


@pytest.mark.parametrize(
    ("content", "codec"),
    [
        (b"", "utf-8"),
        (b"plain\n", "utf-8"),
        (TEXT.encode(), "utf-8"),
        (codecs.BOM_UTF8 + TEXT.encode(), "utf-8"),
        (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), "utf-16-le"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "utf-16-be"),
        (codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"), "utf-32-le"),
        (TEXT.encode("utf-16-le"), "utf-16-le"),
        (TEXT.encode("utf-16-be"), "utf-16-be"),
        (TEXT.encode("cp1252"), "cp1252"),
    ],
)
@pytest.mark.parametrize("block", [50, 1 << 20])
def test_an_encoding_is_found_by_content(content, codec, block, monkeypatch):
    monkeypatch.setattr(encodings, "BLOCK_BYTES", block)
    assert detect(io.BytesIO(content)).codec == codec


NAMES = {
    "Czech": "Řeznictví Dvořák, Příbram\nČokoláda hořká\nŽluťoučký kůň, Ústí nad Labem\nJiří Šťastný, Plzeň\nMléko",
    "Polish": "Świeże pączki, Łódź\nŻółć i gęś, Kraków\nSpółka Wójcik, Gdańsk\nCukierki śliwkowe, Poznań",
    "Hungarian": "Győri Keksz, Győr\nTejföl, Székesfehérvár\nŐszibarack befőtt, Szűcs Bt\nTúró Rudi\nBőrönd",
    "Slovak": "Ľubomír Čech, Košice\nŽitný chlieb\nĎatelina, Nitra\nMäsiarstvo Kováč, Prešov\nRožky šunkové",
    "Turkish": "Şeker Pazarı, İstanbul\nÇikolata Dünyası, Diyarbakır\nLokum Güneş, İzmir\nYağmur Gıda",
    "German": "Müller Bäckerei, München\nSchäfer Süßwaren, Köln\nGrüße, Nürnberg\nKäse ½ kg, Würzburg",
    "French": "Crème brûlée, Orléans\nPâté, Besançon\nGâteau à l'érable, Nîmes\nHélène Lefèvre, L'Haÿ-les-Roses",
    "Spanish": "Jalapeño García, Málaga\n¿Qué tal? Cádiz\nJamón ibérico, León\nPiñata, A Coruña",
    "Portuguese": "São João Pão, Conceição\nCamarões, Camões\nAvô Antônio, Belém\nOpções, Três Irmãos",
    "Italian": "Caffè più, Forlì\nPerché no, Cefalù\nCittà libertà, Cantù\nCosì però, Nardò",
    "Danish": "Rødgrød med fløde, København\nÆrø Bageri, Århus\nSmørrebrød, Helsingør",
    "Icelandic": "Þorláksson, Ægir\nHafnarfjörður\nSæþór Ýmir, Kópavogur\nFiskbúðin, Ísafjörður",
    "Estonian": "Põltsamaa Felix\nRääma Pagar, Pärnu\nJõgeva, Võru\nKüüslauk, Tõrva",
    "of many countries": "Müller, García Núñez\nCrème, São João\nØdegård, Tromsø\nCittà, Forlì\n£5 off, CO²\nŒuvre",
    "Russian": "Конфеты Мишка, Москва\nШоколад Алёнка\nООО Ромашка, Новосибирск\nПряники тульские",
    "Greek": "Γλυκά Παπαδόπουλος, Αθήνα\nΣοκολάτα, Θεσσαλονίκη\nΛουκούμι, Πάτρα",
}
WEST = ("German", "French", "Spanish", "Portuguese", "Italian", "Danish")
CENTRAL_EUROPE = ("Czech", "Polish", "Hungarian", "Slovak")
WRITTEN = [
    *((name, codec) for name in CENTRAL_EUROPE for codec in ("cp1250", "iso8859-2", "cp852")),
    *((name, "cp1252") for name in (*WEST, "Icelandic", "Estonian", "of many countries")),
    *((name, "cp850") for name in WEST),
    *(("Turkish", "cp1254"), ("Russian", "cp1251"), ("Russian", "koi8-r"), ("Greek", "cp1253")),
]


@pytest.mark.parametrize(("language", "codec"), WRITTEN)
def test_names_of_each_language_come_as_they_were_written_in_its_encodings(language, codec):
    lines = [f"INV-{n};{name};{n};2024-12-31\n" for n, name in enumerate(NAMES[language].split("\n") * 5)]
    content = ("Invoice Number;Customer Name;Quantity;Invoice Date\n" + "".join(lines)).encode(codec)
    found = detect(io.BytesIO(content))
    assert as_utf8(content, found.codec) == content.decode(codec).encode()
    assert 0.9 <= found.confidence < 1


@pytest.mark.parametrize(
    "items",
    [
        "Kondensator 10 µF, Müller\nFilter 5 µm für Öl\nVitamin 25 µg\n200 µl",
        "Karton 10×15cm\nA×B\n5 ×mm\n6 ×pack",
        "Tea•Set\nCup•Set\nJar•Set\nBox•Set",
        "Tea™Set\nCUP™SET\nJar™Set\nBOX™SET",
    ],
)
def test_signs_next_to_letters_are_not_taken_for_letters_of_another_encoding(items):
    lines = "".join(f"INV-{n};{item};{n}\n" for n, item in enumerate(items.split("\n")))
    content = ("Invoice Number;Item;Quantity\n" + lines).encode("cp1252")
    assert as_utf8(content, detect(io.BytesIO(content)).codec).decode() == content.decode("cp1252")


@pytest.mark.parametrize(
    "cell",
    ["Café", "Søn & Co", "Salmon, Noël", "MÜLLER", "£5.00", "¥100", "½ kg", "25 °C", "A – B", "5±1 ×3"],
)
def test_one_cell_beyond_ascii_among_many_is_not_of_another_script(cell):
    lines = "".join(f"INV-{n};{'Smith Ltd' if n < 90 else cell};{n}\n" for n in range(91))
    content = ("Invoice Number;Customer Name;Quantity\n" + lines).encode("cp1252")
    assert detect(io.BytesIO(content)).codec == "cp1252"


def test_a_few_words_that_fit_nothing_stay_western_and_are_not_called_sure():
    found = detect(io.BytesIO("INV-1;Dvořák, Příbram;4\n".encode("cp1250")))
    assert found.codec == "cp1252"
    assert found.confidence <= 0.5


def test_what_is_marked_or_proven_is_certain_and_a_guess_is_not():
    assert detect(io.BytesIO(TEXT.encode())).confidence == 1
    assert detect(io.BytesIO(codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"))).confidence == 1
    assert detect(io.BytesIO(TEXT.encode("cp1252"))).confidence < 1


def test_a_damaged_spot_in_utf_8_is_no_other_encoding():
    content = TEXT.encode() + b"3;K\xe4se\n"
    found = detect(io.BytesIO(content))
    assert found.codec == "utf-8"
    assert 0.9 < found.confidence < 1
    assert "K\ufffdse" in as_utf8(content, "utf-8").decode()


def test_an_encoding_that_does_not_exist_is_named():
    with pytest.raises(UnreadableError, match="'klingon'"):
        stated_encoding("klingon")
    assert stated_encoding("Windows-1252").codec == "cp1252"
    assert stated_encoding("utf-8-sig").codec == "utf-8"
