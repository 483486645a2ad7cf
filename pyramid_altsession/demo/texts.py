"""What the pages say, in every language of the shop."""

TEXTS: dict[str, dict[str, str]] = {
    "en": {
        "itself": "English",
        "slogan": "Everything for tea, kept key by key.",
        "skip": "Skip to the content",
        "navigation": "Shop",
        "language": "Language",
        "catalogue": "Catalogue",
        "cart": "Cart",
        "counter": "Counter",
        "about": "About",
        "sign_out": "Sign out",
        "in_cart": "in the cart",
        "add": "Add to cart",
        "remove": "Remove",
        "empty": "Nothing in the cart yet.",
        "to_catalogue": "To the catalogue",
        "product": "Product",
        "number": "Number",
        "amount": "Amount",
        "total": "Total",
        "counter_text": (
            "Each press is one request that increments a key of the session. Open this page in"
            " two tabs and press in both: nothing is lost."
        ),
        "counted": "Counted so far",
        "count": "Add 1",
        "hammer": "Send 200 requests",
        "hammered": "Requests sent by this tab:",
        "about_text": (
            "The shop is an ordinary Pyramid application. Its session lives in a Valkey server"
            " as one hash, and each request reads or writes only the keys it needs."
        ),
        "about_unused": (
            "This page does not ask its session at all: it costs no command, sets no cookie and"
            " follows your browser's language, as your choice in the shop is in the session."
        ),
        "panel": "What this request asked of the session",
        "panel_none": "The server was not asked.",
        "panel_before": "Before it",
        "panel_this": "This page",
        "operation": "Operation",
        "operations": "operations",
        "one_operation": "operation",
        "round_trips": "round trips",
        "one_round_trip": "round trip",
        "trips": "Trips",
        "sent": "Bytes out",
        "received": "Bytes in",
        "microseconds": "µs",
        "read": "Read",
        "write": "Write",
        "create": "New session",
        "again": "Try again",
        "gone_title": "Your session has ended",
        "gone": (
            "It ended, or was renewed, by another of your requests while this one was under"
            " way. Nothing was changed by this one."
        ),
        "unavailable_title": "Back in a moment",
        "unavailable": (
            "The place where we keep your cart does not answer just now. Please try again in a"
            " few seconds."
        ),
        "refused_title": "This cannot be done",
        "refused": "The form was incomplete, or it came from another site.",
        "not_found_title": "There is no such page",
        "not_found": "It may have moved, or the address has a slip of the pen.",
    },
    "de": {
        "itself": "Deutsch",
        "slogan": "Alles für den Tee, Schlüssel für Schlüssel verwahrt.",
        "skip": "Zum Inhalt",
        "navigation": "Laden",
        "language": "Sprache",
        "catalogue": "Sortiment",
        "cart": "Korb",
        "counter": "Zähler",
        "about": "Über uns",
        "sign_out": "Abmelden",
        "in_cart": "im Korb",
        "add": "In den Korb",
        "remove": "Entfernen",
        "empty": "Der Korb ist noch leer.",
        "to_catalogue": "Zum Sortiment",
        "product": "Ware",
        "number": "Anzahl",
        "amount": "Betrag",
        "total": "Summe",
        "counter_text": (
            "Jeder Druck ist eine Anfrage, die einen Schlüssel der Sitzung um eins erhöht. Öffnen"
            " Sie diese Seite in zwei Tabs und drücken Sie in beiden: nichts geht verloren."
        ),
        "counted": "Bisher gezählt",
        "count": "Plus 1",
        "hammer": "200 Anfragen senden",
        "hammered": "Anfragen dieses Tabs:",
        "about_text": (
            "Der Laden ist eine gewöhnliche Pyramid-Anwendung. Seine Sitzung liegt als ein Hash"
            " in einem Valkey-Server; jede Anfrage liest oder schreibt nur die Schlüssel, die"
            " sie braucht."
        ),
        "about_unused": (
            "Diese Seite fragt ihre Sitzung gar nicht: sie kostet keinen Befehl, setzt kein"
            " Cookie und folgt der Sprache Ihres Browsers, denn die im Laden gewählte steht in"
            " der Sitzung."
        ),
        "panel": "Was diese Anfrage von der Sitzung wollte",
        "panel_none": "Der Server wurde nicht gefragt.",
        "panel_before": "Davor",
        "panel_this": "Diese Seite",
        "operation": "Operation",
        "operations": "Operationen",
        "one_operation": "Operation",
        "round_trips": "Umläufe",
        "one_round_trip": "Umlauf",
        "trips": "Um\u00adläufe",
        "sent": "Byte hin",
        "received": "Byte her",
        "microseconds": "µs",
        "read": "Lesen",
        "write": "Schreiben",
        "create": "Neue Sitzung",
        "again": "Noch einmal",
        "gone_title": "Ihre Sitzung ist zu Ende",
        "gone": (
            "Eine andere Ihrer Anfragen hat sie beendet oder erneuert, während diese unterwegs"
            " war. Diese hier hat nichts geändert."
        ),
        "unavailable_title": "Gleich wieder da",
        "unavailable": (
            "Der Ort, an dem Ihr Korb steht, antwortet gerade nicht. Bitte versuchen Sie es in"
            " einigen Sekunden noch einmal."
        ),
        "refused_title": "Das geht nicht",
        "refused": "Das Formular war unvollständig oder kam von einer anderen Website.",
        "not_found_title": "Diese Seite gibt es nicht",
        "not_found": "Vielleicht ist sie umgezogen, oder die Adresse hat einen Schreibfehler.",
    },
}
