"""What the pages say in German."""

DE = {
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
    "sign_in": "Anmelden",
    "added": "Im Korb: {product}.",
    "removed": "Entfernt: {product}.",
    "welcome": "Willkommen, {name}.",
    "name": "Ihr Name",
    "remember": "Auf diesem Gerät 30 Tage angemeldet bleiben",
    "sign_in_text": (
        "Jeder Name gilt: dieser Laden hat keine Passwörter, ein echter fragte hier nach dem"
        " Ihren. Ihr Korb kommt mit, und Ihr Cookie wird ein anderes."
    ),
    "account_text": (
        "Bitte melden Sie sich zuerst an. Jeder Name gilt: dieser Laden hat keine Passwörter."
    ),
    "fresh_text": (
        "Die gewünschte Seite verlangt eine Anmeldung der letzten Minute, damit sie niemand an"
        " Ihrem verlassenen Bildschirm liest. Melden Sie sich bitte noch einmal an; dann"
        " öffnet sie sich."
    ),
    "account": "Meine Geräte",
    "all_sessions": "Alle Sitzungen",
    "account_of": "Angemeldet als",
    "this_device": "Dieses Gerät",
    "some_browser": "Irgendein Browser",
    "from_address": "IP-Adresse",
    "signed_in": "Angemeldet",
    "last_seen": "Zuletzt da",
    "ago_now": "gerade eben",
    "ago_minutes": "vor {} Min.",
    "ago_hours": "vor {} Std.",
    "ago_days": "vor {} Tagen",
    "end": "Beenden",
    "end_others": "Überall sonst abmelden",
    "end_all": "Überall abmelden",
    "ended": "Diese Sitzung ist beendet.",
    "ended_before": "Diese Sitzung war schon zu Ende.",
    "ended_others": "Anderswo beendete Sitzungen: {number}.",
    "address": "Meine Anschrift",
    "address_text": (
        "Diese Seite öffnet sich nur nach einer Anmeldung der letzten Minute. Was Sie"
        " schreiben, steht in Ihrer Sitzung und wird mit ihr vergessen."
    ),
    "address_label": "Straße und Ort",
    "save": "Speichern",
    "saved": "Ihre Anschrift ist gespeichert.",
    "in_cart": "im Korb",
    "add": "In den Korb",
    "remove": "Entfernen",
    "empty": "Der Korb ist noch leer.",
    "live": "Warenkorb, live",
    "live_text": (
        "Diese Seite kommt aus einem anderen Prozess, mit derselben Sitzung: Ändern Sie in"
        " einem anderen Fenster den Korb, oder melden Sie sich ab, und sehen Sie zu."
    ),
    "live_open": "Verbunden.",
    "live_over": "Die Sitzung ist beendet oder hat noch nicht begonnen.",
    "live_away": "Verbindung wird aufgebaut …",
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
    "hammered": "Angenommene Anfragen dieses Tabs:",
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
    "intro": "Was das ist",
    "intro_text": (
        "Dieser Laden führt pyramid_altsession vor: Sitzungen für Pyramid, die in Redis oder"
        " Valkey liegen, Schlüssel für Schlüssel. Eine Anfrage liest und schreibt nur die"
        " Schlüssel, die sie nennt. So überschreiben zwei Anfragen zugleich einander keine"
        " Schlüssel, und nach einer Abmeldung holt keine späte Anfrage die Sitzung zurück."
    ),
    "intro_panel": (
        "Die Tafel neben oder unter jeder Seite zeigt, was die Anfrage der Seite von der"
        " Sitzung wollte: jede Operation mit ihren Schlüsseln, ihren Bytes und ihren Umläufen"
        " zum Server."
    ),
    "intro_try": "Zum Ausprobieren",
    "intro_add": "Legen Sie etwas in den Korb: das erzeugt Ihre Sitzung und ihr Cookie.",
    "intro_counter": "Drücken Sie den Knopf in zwei Tabs zugleich.",
    "intro_why": "Sehen Sie, was bei einer Sitzung schiefgeht, die ein einziger Wert ist.",
    "intro_devices": (
        "Tun Sie es in zwei Browsern unter einem Namen, und beenden Sie die eine Sitzung von"
        " der anderen aus."
    ),
    "intro_docs": "Die Dokumentation (englisch) liegt im Ordner docs/ des Quelltextes",
    "why": "Zwei Argumente",
    "why_text": (
        "Zwei Anfragen desselben Besuchers überschneiden sich: eine langsame und eine schnelle,"
        " die beginnt und endet, während die langsame unterwegs ist. Jede Tabelle zeigt, was"
        " der Server nach jedem Schritt hat. Links eine Sitzung, die ein einziger Wert ist:"
        " eine Anfrage lädt sie ganz, wenn sie beginnt, und speichert sie ganz, wenn sie"
        " endet. Rechts eine Sitzung dieses Pakets."
    ),
    "why_run": (
        "Beide liefen soeben, für diese Seite, mit denselben Schritten in derselben Folge. Die"
        " linke liegt im Speicher dieses Programms, die rechte dort, wo dieser Laden Ihre hat."
        " Die Tafel nennt jede Operation der rechten. Die namens inspect sehen nur nach, nach"
        " jedem Schritt, für die Tabellen."
    ),
    "why_step": "Schritt",
    "why_one_value": "Ein Wert",
    "why_key_by_key": "Je Schlüssel",
    "why_outcome": "Ergebnis",
    "why_nothing": "nichts",
    "why_start": "Vorher",
    "why_slow_reads": "Die langsame Anfrage beginnt und liest den Korb",
    "why_fast_sets": "Die schnelle Anfrage setzt das Thema und endet",
    "why_slow_adds": "Die langsame Anfrage legt Honig in den Korb und endet",
    "why_fast_signs_out": "Die schnelle Anfrage meldet Ann ab und endet",
    "why_slow_adds_cup": "Die langsame Anfrage legt eine Tasse in den Korb und endet",
    "why_update": "Die verlorene Änderung",
    "why_update_text": "Die schnelle Anfrage setzt das Thema, die langsame ändert den Korb.",
    "why_lost": "Das Thema ist verloren.",
    "why_kept": "Thema und Korb sind beide da.",
    "why_logout": "Die aufgehobene Abmeldung",
    "why_logout_text": (
        "Ann meldet sich ab, während die langsame Anfrage unterwegs ist. Dieses Paket prüft auf"
        " dem Server, im selben Schritt wie beim Schreiben, ob die Sitzung noch lebt; wenn"
        " nicht, löst der Aufruf SessionGone aus."
    ),
    "why_undone": "Ann ist wieder angemeldet.",
    "why_over": "Ann bleibt abgemeldet.",
    "why_again": "Noch einmal ausführen",
    "product_away": (
        "Ihren Korb und Ihre Anmeldung können wir gerade nicht sehen. Über unsere Waren können Sie"
        " lesen; in den Korb legen können Sie sie erst später."
    ),
    "outage": "Ausfallschalter",
    "intro_outage": (
        "Halten Sie den Sitzungsserver an, sehen Sie, was Besucher dann sehen, und starten Sie ihn"
        " wieder."
    ),
    "about_outage": (
        "Diese Seite gibt es auch, während der Sitzungsserver nicht antwortet. Sie können es"
        " ausprobieren:"
    ),
    "outage_text": (
        "Hier können Sie den Valkey-Server anhalten, der die Sitzungen dieses Ladens verwahrt. Sein"
        " Prozess ruht dann: er nimmt Verbindungen an und antwortet nicht. Er verliert nichts. Er"
        " läuft weiter, wenn Sie ihn wieder starten, wenn der Laden endet, und spätestens nach"
        " {seconds} Sekunden. Diese Seite bekommt nur ein Browser auf dem Rechner des Ladens."
    ),
    "outage_on": "Der Sitzungsserver läuft.",
    "outage_off": "Der Sitzungsserver ist angehalten.",
    "outage_stop": "Sitzungsserver anhalten",
    "outage_start": "Wieder starten",
    "outage_first": (
        "Legen Sie zuerst etwas in den Korb: ein Besucher ohne Sitzung bemerkt keinen Ausfall, denn"
        " der Server wird nicht gefragt. Halten Sie dann den Server an, und öffnen Sie diese"
        " Seiten."
    ),
    "outage_cart": (
        "Diese Seite braucht die Sitzung. Der Laden wartet höchstens {timeout} s auf den Server"
        " (redis.timeout und redis.connect_timeout) und antwortet dann „{title}“, mit dem"
        " Status 503."
    ),
    "outage_product": (
        "Diese Seite kommt ohne die Sitzung aus (altsession_optional). Der Laden wartet ebenso"
        " lange, zeigt dann die Ware und sagt, dass der Korb nicht zu sehen ist."
    ),
    "outage_about": "Diese Seite fragt nicht nach der Sitzung. Sie kommt sofort, wie immer.",
    "outage_after": (
        "Starten Sie den Server dann wieder. Der Laden fragt ihn von selbst aufs Neue, und Ihr Korb"
        " ist wie zuvor."
    ),
    "outage_yours": "Sie haben den Sitzungsserver selbst angehalten. Hier starten Sie ihn wieder:",
    "panel": "Was diese Anfrage von der Sitzung wollte",
    "panel_about": (
        "Jede Zeile ist eine Operation. Ein Umlauf ist ein Paket zum Server und dessen Antwort:"
        " die Anfrage wartet darauf. µs sagt, wie lange das dauerte, in Millionstel Sekunden."
    ),
    "panel_created": (
        "Vor diesem Schreiben gab es keine Sitzung: es hat eine erzeugt, mit einem Cookie, in"
        " derselben Operation, die den Wert ablegte. Wie jedes Schreiben kostet es einen"
        " Umlauf, oder zwei, wenn der Server das Skript des Pakets noch nicht kennt. Vor dem"
        " ersten Schreiben hat der Server nichts von einem Besucher; Seiten anzusehen kostet"
        " also nichts."
    ),
    "panel_dead": (
        "Die Sitzung dieses Cookies gibt es nicht mehr: der Server sagt es und ändert nichts."
        " Ein Schreiben erzeugt dann eine neue Sitzung, mit einer Operation mehr."
    ),
    "panel_none": "Der Server wurde nicht gefragt: das kostete keinen Umlauf.",
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
    "users": "Zum Nutzer",
    "again": "Noch einmal",
    "gone_title": "Ihre Sitzung ist zu Ende",
    "gone": (
        "Eine andere Ihrer Anfragen hat sie beendet oder erneuert, während diese unterwegs"
        " war. Diese hier hat nichts geändert. Bitte versuchen Sie es in einigen Sekunden noch"
        " einmal."
    ),
    "unavailable_title": "Gleich wieder da",
    "unavailable": (
        "Der Ort, an dem Ihr Korb steht, antwortet gerade nicht. Bitte versuchen Sie es in"
        " einigen Sekunden noch einmal."
    ),
    "crowded_title": "An zu vielen Orten angemeldet",
    "crowded": "Bitte melden Sie sich zuerst an einem davon ab.",
    "refused_title": "Das geht nicht",
    "refused": (
        "Das Formular war unvollständig, kam von einer anderen Website oder ist älter als Ihre"
        " Anmeldung. Laden Sie seine Seite neu und senden Sie es noch einmal."
    ),
    "not_found_title": "Diese Seite gibt es nicht",
    "not_found": "Vielleicht ist sie umgezogen, oder die Adresse hat einen Schreibfehler.",
}
