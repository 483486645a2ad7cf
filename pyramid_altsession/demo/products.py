"""What the shop sells."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """``art`` is drawn in ``templates/art.jinja2`` under the same id."""

    id: str
    cents: int
    name: Mapping[str, str]
    line: Mapping[str, str]

    @property
    def key(self) -> str:
        """Its key in a session: one for each product, so that two tabs that add different
        things never meet, and ``increment`` sees to the same thing added twice."""
        return f"cart.{self.id}"


PRODUCTS = {
    product.id: product
    for product in (
        Product(
            "teapot",
            3400,
            {"en": "Teapot", "de": "Teekanne"},
            {"en": "Stoneware, holds four cups.", "de": "Steinzeug, für vier Tassen."},
        ),
        Product(
            "cup",
            1250,
            {"en": "Cup and saucer", "de": "Tasse mit Untertasse"},
            {"en": "Thin rim, wide handle.", "de": "Dünner Rand, weiter Henkel."},
        ),
        Product(
            "assam",
            890,
            {"en": "Assam, 100\u00a0g", "de": "Assam, 100\u00a0g"},
            {"en": "Malty leaves in a tin.", "de": "Malzige Blätter in der Dose."},
        ),
        Product(
            "infuser",
            560,
            {"en": "Infuser", "de": "Teesieb"},
            {"en": "Fine mesh on a chain.", "de": "Feines Netz an einer Kette."},
        ),
        Product(
            "honey",
            720,
            {"en": "Linden honey", "de": "Lindenhonig"},
            {"en": "From the trees behind us.", "de": "Von den Bäumen hinterm Haus."},
        ),
        Product(
            "biscuits",
            430,
            {"en": "Oat biscuits", "de": "Haferkekse"},
            {"en": "A dozen, for dunking.", "de": "Ein Dutzend, zum Eintunken."},
        ),
    )
}


def price(cents: int, language: str) -> str:
    """An amount in euros, as the language writes it."""
    amount = f"{cents // 100}.{cents % 100:02d}"
    return f"€{amount}" if language == "en" else f"{amount.replace('.', ',')} €"
