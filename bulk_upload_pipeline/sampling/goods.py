"""What an invented wholesaler sells, and to whom: the lists from which `sample` draws its invoices.

All names of shops, people and brands are invented. The lists never depend on a seed: as in life, the files
of different days name the same shops and sweets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Item:
    """Something that is sold.

    Attributes:
        mrp: Printed retail price of one unit, in paise.
        tax: GST, in per cent.
        weighed: Whether it is sold by weight, so that quantities have quarters of a kilogram.
    """

    name: str
    description: str
    code: str
    sku: str
    brand: str
    category: str
    unit: str
    mrp: int
    tax: int
    weighed: bool


@dataclass(frozen=True, slots=True)
class City:
    """A city with the first digits of its postal codes."""

    name: str
    state: str
    postal: str


@dataclass(frozen=True, slots=True)
class Shop:
    """A customer. `margin` is what it gets off the printed price, in per cent; it pays after `days`."""

    name: str
    code: str
    account: str
    billing: City
    billing_code: str
    shipping: City
    shipping_code: str
    margin: int
    days: int
    warehouse: int
    sales_person: str


BRANDS = ("Madhurika", "Kesar Kunj", "Chatpati Gali", "Navrang Treats", "Mangalm Gold", "Swadangan")
WAREHOUSES = ("Jaipur Main", "Delhi Narela", "Mumbai Bhiwandi", "Kolkata Dankuni", "Indore Central")
SALES_PEOPLE = (
    "Amit Verma",
    "Deepa Nair",
    "Farhan Qureshi",
    "Gurpreet Kaur",
    "Harish Rao",
    "Ishita Sen",
    "Kiran Patil",
    "Lakshmi Iyer",
    "Manoj Tiwari",
    "Neha Bansal",
    "Prakash Joshi",
    "Rekha D'Souza",
)

_PACKS: dict[str, tuple[tuple[str, str, int], ...]] = {
    # Name of the pack, unit, grams; a pack of 0 grams is weighed.
    "Sweets": (
        ("loose", "kg", 0),
        ("250 g box", "box", 250),
        ("500 g box", "box", 500),
        ("1 kg box", "box", 1000),
    ),
    "Namkeen": (("200 g", "pcs", 200), ("400 g", "pcs", 400), ("1 kg", "pcs", 1000)),
    "Bakery": (("300 g", "pcs", 300), ("600 g", "pcs", 600)),
    "Syrups": (("750 ml", "btl", 750),),
    "Papad & Pickles": (("200 g", "pcs", 200), ("500 g", "pcs", 500)),
    "Gift Boxes": (("assorted", "box", 1000), ("assorted, festive sleeve", "box", 1200)),
}
_CODES = {
    # HSN of the tariff and GST of each category.
    "Sweets": ("21069099", 5),
    "Namkeen": ("21069040", 12),
    "Bakery": ("19054000", 5),
    "Syrups": ("21069011", 18),
    "Papad & Pickles": ("20019000", 12),
    "Gift Boxes": ("17049090", 18),
}
_PRODUCTS: dict[str, tuple[tuple[str, int], ...]] = {
    # Name and rupees a kilogram.
    "Sweets": (
        ("Kaju Katli", 1180),
        ("Kaju Roll", 1240),
        ("Badam Barfi", 1320),
        ("Pista Launj", 1480),
        ("Motichoor Laddu", 440),
        ("Besan Laddu", 520),
        ("Gond Laddu", 680),
        ("Coconut Laddu", 460),
        ("Soan Papdi", 360),
        ("Soan Papdi Elaichi", 380),
        ("Mysore Pak", 560),
        ("Milk Cake", 540),
        ("Kalakand", 580),
        ("Mathura Peda", 520),
        ("Kesar Peda", 600),
        ("Gulab Jamun", 420),
        ("Rasgulla", 380),
        ("Rajbhog", 460),
        ("Cham Cham", 440),
        ("Balushahi", 340),
        ("Imarti", 360),
        ("Ghevar", 640),
        ("Doda Barfi", 560),
        ("Anjeer Barfi", 1120),
        ("Til Gajak", 400),
        ("Moong Dal Halwa", 620),
        ("Agra Petha", 260),
        ("Shahi Tukda", 540),
    ),
    "Namkeen": (
        ("Bikaneri Bhujia", 280),
        ("Aloo Bhujia", 260),
        ("Ratlami Sev", 250),
        ("Laung Sev", 270),
        ("Moong Dal", 300),
        ("Chana Dal", 240),
        ("Khatta Meetha", 260),
        ("Navratan Mixture", 280),
        ("Cornflakes Mixture", 290),
        ("Panchrattan", 340),
        ("Banana Chips", 360),
        ("Masala Peanuts", 240),
        ("Roasted Chana", 220),
        ("Bhakarwadi", 320),
        ("Mathri", 280),
        ("Methi Mathri", 300),
        ("Namak Para", 240),
        ("Shakkar Para", 250),
        ("Dry Samosa", 340),
        ("Chakli", 330),
        ("Murukku", 320),
        ("Poha Chivda", 260),
    ),
    "Bakery": (
        ("Milk Rusk", 200),
        ("Suji Rusk", 220),
        ("Elaichi Rusk", 240),
        ("Nankhatai", 360),
        ("Jeera Biscuits", 280),
        ("Ajwain Cookies", 300),
        ("Kaju Pista Cookies", 480),
        ("Khari Puff", 320),
        ("Fruit Toast", 260),
        ("Coconut Cookies", 320),
    ),
    "Syrups": (
        ("Rose Sharbat", 220),
        ("Thandai", 380),
        ("Khus Sharbat", 210),
        ("Kesar Badam Syrup", 420),
        ("Aam Panna", 240),
        ("Jaljeera Syrup", 200),
    ),
    "Papad & Pickles": (
        ("Moong Papad", 320),
        ("Urad Papad", 300),
        ("Chana Papad", 290),
        ("Mango Pickle", 260),
        ("Lemon Pickle", 250),
        ("Mixed Pickle", 270),
    ),
    "Gift Boxes": (("Diwali Box", 980), ("Shagun Box", 760), ('Mewa Tray 12"', 1640), ("Rakhi Hamper", 880)),
}

_CITIES = (
    City("Jaipur", "Rajasthan", "3020"),
    City("Jodhpur", "Rajasthan", "3420"),
    City("Bikaner", "Rajasthan", "3340"),
    City("Kota", "Rajasthan", "3240"),
    City("New Delhi", "Delhi", "1100"),
    City("Gurugram", "Haryana", "1220"),
    City("Hisar", "Haryana", "1250"),
    City("Ludhiana", "Punjab", "1410"),
    City("Amritsar", "Punjab", "1430"),
    City("Chandigarh", "Chandigarh", "1600"),
    City("Lucknow", "Uttar Pradesh", "2260"),
    City("Kanpur", "Uttar Pradesh", "2080"),
    City("Agra", "Uttar Pradesh", "2820"),
    City("Varanasi", "Uttar Pradesh", "2210"),
    City("Mathura", "Uttar Pradesh", "2810"),
    City("Dehradun", "Uttarakhand", "2480"),
    City("Patna", "Bihar", "8000"),
    City("Ranchi", "Jharkhand", "8340"),
    City("Kolkata", "West Bengal", "7000"),
    City("Siliguri", "West Bengal", "7340"),
    City("Guwahati", "Assam", "7810"),
    City("Bhubaneswar", "Odisha", "7510"),
    City("Indore", "Madhya Pradesh", "4520"),
    City("Bhopal", "Madhya Pradesh", "4620"),
    City("Raipur", "Chhattisgarh", "4920"),
    City("Ahmedabad", "Gujarat", "3800"),
    City("Surat", "Gujarat", "3950"),
    City("Rajkot", "Gujarat", "3600"),
    City("Mumbai", "Maharashtra", "4000"),
    City("Pune", "Maharashtra", "4110"),
    City("Nagpur", "Maharashtra", "4400"),
    City("Hyderabad", "Telangana", "5000"),
    City("Bengaluru", "Karnataka", "5600"),
    City("Mysuru", "Karnataka", "5700"),
    City("Chennai", "Tamil Nadu", "6000"),
    City("Coimbatore", "Tamil Nadu", "6410"),
    City("Kochi", "Kerala", "6820"),
    City("Visakhapatnam", "Andhra Pradesh", "5300"),
)
_FAMILIES = (
    "Agarwal",
    "Bansal",
    "Chaudhary",
    "Desai",
    "Goyal",
    "Gupta",
    "Jain",
    "Joshi",
    "Khandelwal",
    "Mittal",
    "Nair",
    "Patel",
    "Purohit",
    "Rathore",
    "Saini",
    "Sharma",
    "Shree Balaji",
    "Shree Ganesh",
    "Jai Ambe",
    "Om Shanti",
    "New Bharat",
    "Annadata",
    "Radhe Krishna",
    "Tulsi",
    "Verma",
    "Yadav",
    "Lakshmi",
    "Maruti",
    "Navjeevan",
    "Pushpa",
)
_KINDS = (
    "Sweets",
    "Mithai Bhandar",
    "Namkeen House",
    "Sweets & Snacks",
    "Kirana Store",
    "Bakers",
    "Super Mart",
    "Misthan",
    "Traders",
    "& Sons, Confectioners",
    "Sweet Corner",
    "Provision Store",
    "Dairy & Sweets",
    "Foods Pvt. Ltd.",
    "मिष्ठान भंडार",
    "Wholesale, Unit 2",
)


@lru_cache(maxsize=1)
def items() -> tuple[Item, ...]:
    """Return everything that is sold, some two hundred items."""
    kinds = [(category, *product) for category, products in _PRODUCTS.items() for product in products]
    return tuple(
        _item(category, name, rupees, pack, number * 10 + size)
        for number, (category, name, rupees) in enumerate(kinds, 1)
        for size, pack in enumerate(_PACKS[category])
    )


def _item(category: str, name: str, rupees: int, pack: tuple[str, str, int], number: int) -> Item:
    pack_name, unit, grams = pack
    hsn, tax = _CODES[category]
    brand = BRANDS[number // 10 % len(BRANDS)]
    # A pack costs a little more than its weight, and is priced in whole rupees as on a label.
    mrp = rupees * 100 if grams == 0 else (rupees * grams // 1000 + 9) * 100
    full_name = f"{name}, {pack_name}" if grams == 0 or category == "Gift Boxes" else f"{name} {pack_name}"
    return Item(
        name=full_name,
        description=f"{brand} {name}, {pack_name}; HSN {hsn}" if number % 3 else "",
        code=f"46000000{number:011d}",
        sku=f"{hsn}-{number:04d}",
        brand=brand,
        category=category,
        unit=unit,
        mrp=mrp,
        tax=tax,
        weighed=grams == 0,
    )


@lru_cache(maxsize=1)
def shops() -> tuple[Shop, ...]:
    """Return the customers, several hundred; every eighth has its goods sent to another city."""
    pairs = [(family, kind) for kind in _KINDS for family in _FAMILIES]
    return tuple(_shop(number, f"{family} {kind}") for number, (family, kind) in enumerate(pairs))


def _shop(number: int, name: str) -> Shop:
    billing = _CITIES[number * 7 % len(_CITIES)]
    shipping = _CITIES[number * 11 % len(_CITIES)] if number % 8 == 5 else billing
    billing_code = f"{billing.postal}{number % 60 + 1:02d}"
    return Shop(
        name=name,
        code=f"{number * 37 % 99991:05d}",
        account=f"46000000{900000 + number:011d}",
        billing=billing,
        billing_code=billing_code,
        shipping=shipping,
        shipping_code=billing_code if shipping is billing else f"{shipping.postal}{number % 40 + 1:02d}",
        margin=8 + number * 5 % 15,
        days=(0, 7, 15, 30, 30, 45)[number % 6],
        warehouse=number * 3 % len(WAREHOUSES),
        sales_person=SALES_PEOPLE[number * 5 % len(SALES_PEOPLE)],
    )
