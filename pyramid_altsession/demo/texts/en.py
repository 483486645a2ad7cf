"""What the pages say in English."""

EN = {
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
    "sign_in": "Sign in",
    "added": "In your cart: {product}.",
    "removed": "Removed: {product}.",
    "welcome": "Welcome, {name}.",
    "name": "Your name",
    "remember": "Stay signed in on this device for 30 days",
    "sign_in_text": (
        "Any name will do: this shop has no passwords, a real one would ask for yours here."
        " Your cart comes along, and your cookie becomes another."
    ),
    "account_text": "Please sign in first. Any name will do: this shop has no passwords.",
    "fresh_text": (
        "The page you want asks for a sign-in of the last minute, so that nobody reads it on a"
        " screen you left. Please sign in once more; then it opens."
    ),
    "account": "My devices",
    "all_sessions": "All sessions",
    "account_of": "Signed in as",
    "this_device": "This device",
    "some_browser": "Some browser",
    "from_address": "IP address",
    "signed_in": "Signed in",
    "last_seen": "Last seen",
    "ago_now": "just now",
    "ago_minutes": "{} min ago",
    "ago_hours": "{} h ago",
    "ago_days": "{} days ago",
    "end": "End",
    "end_others": "Sign out everywhere else",
    "end_all": "Sign out everywhere",
    "ended": "That session has ended.",
    "ended_before": "That session had ended already.",
    "ended_others": "Sessions ended elsewhere: {number}.",
    "address": "My address",
    "address_text": (
        "This page opens only for a sign-in of the last minute. What you write is kept in"
        " your session, and forgotten with it."
    ),
    "address_label": "Street and town",
    "save": "Save",
    "saved": "Your address is saved.",
    "in_cart": "in the cart",
    "add": "Add to cart",
    "remove": "Remove",
    "empty": "Nothing in the cart yet.",
    "live": "Cart, live",
    "live_text": (
        "Another process serves this page, with the same session: change the cart or sign out"
        " in the shop, in another window, and watch."
    ),
    "live_open": "Connected.",
    "live_over": "The session has ended, or has not begun yet.",
    "live_away": "Connecting …",
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
    "hammered": "Requests of this tab that were taken:",
    "about_text": (
        "The shop is an ordinary Pyramid application. Its session lives in a Valkey server"
        " as one hash, and each request reads or writes only the keys it needs."
    ),
    "about_unused": (
        "This page does not ask its session at all: it costs no command, sets no cookie and"
        " follows your browser's language, as your choice in the shop is in the session."
    ),
    "intro": "What this is",
    "intro_text": (
        "This shop is the demo of pyramid_altsession: sessions for Pyramid that live in Redis"
        " or Valkey. A session is kept there key by key. A request reads and writes only the"
        " keys it names, so two requests at once do not overwrite each other's keys, and after"
        " a sign-out no late request brings the session back."
    ),
    "intro_panel": (
        "The panel beside or below each page lists what the page's request asked of the"
        " session: each operation with its keys, its bytes and its round trips to the server."
    ),
    "intro_try": "What to try",
    "intro_add": "Add something to the cart: this makes your session and its cookie.",
    "intro_counter": "press the button in two tabs at once.",
    "intro_why": "see what goes wrong with a session that is one value.",
    "intro_devices": "use one name in two browsers, and end one session from the other.",
    "intro_docs": "The documentation is in the folder docs/ of the source",
    "why": "Two arguments",
    "why_text": (
        "Two requests of one visitor overlap: a slow one, and a fast one that begins and ends"
        " while the slow one is under way. Each table shows what the server holds after each"
        " step. On the left, a session that is one value: a request loads all of it when it"
        " begins and saves all of it when it ends. On the right, a session of this package."
    ),
    "why_run": (
        "Both were run just now, for this page, with the same steps in the same order. The left"
        " one is kept in this program's memory, the right one where this shop keeps yours. The"
        " panel lists each operation of the right one. Those called inspect only look, after"
        " each step, for these tables."
    ),
    "why_step": "Step",
    "why_one_value": "One value",
    "why_key_by_key": "Key by key",
    "why_outcome": "Outcome",
    "why_nothing": "nothing",
    "why_start": "Before",
    "why_slow_reads": "The slow request begins and reads the cart",
    "why_fast_sets": "The fast request sets the theme and ends",
    "why_slow_adds": "The slow request adds honey to the cart and ends",
    "why_fast_signs_out": "The fast request signs Ann out and ends",
    "why_slow_adds_cup": "The slow request adds a cup to the cart and ends",
    "why_update": "The lost update",
    "why_update_text": "The fast request sets the theme, the slow one changes the cart.",
    "why_lost": "The theme is lost.",
    "why_kept": "The theme and the cart are kept.",
    "why_logout": "The undone logout",
    "why_logout_text": (
        "Ann signs out while the slow request is under way. This package checks on the server,"
        " in the same step as the write, that the session is alive; if it is not, the call"
        " raises SessionGone."
    ),
    "why_undone": "Ann is signed in again.",
    "why_over": "Ann stays signed out.",
    "why_again": "Run it again",
    "product_away": (
        "We cannot see your cart or your sign-in just now. You can read about our products; adding"
        " them to the cart has to wait."
    ),
    "outage": "Outage switch",
    "intro_outage": "stop the session server, see what visitors see, and start it again.",
    "about_outage": "This page is also there while the session server is not. You can try that:",
    "outage_text": (
        "Here you can stop the Valkey server that keeps this shop's sessions. Its process is then"
        " suspended: it takes connections and does not answer. It loses nothing. It goes on when"
        " you start it again, when the shop ends, and after {seconds} seconds at the latest. Only a"
        " browser on the shop's own machine gets this page."
    ),
    "outage_on": "The session server is running.",
    "outage_off": "The session server is stopped.",
    "outage_stop": "Stop the session server",
    "outage_start": "Start it again",
    "outage_first": (
        "First add something to the cart: a visitor without a session notices no outage, as the"
        " server is not asked. Then stop the server and open these pages."
    ),
    "outage_cart": (
        "this page needs the session. The shop waits at most {timeout} s for the server"
        " (redis.timeout and redis.connect_timeout), then answers “{title}”, with status 503."
    ),
    "outage_product": (
        "this page can do without the session (altsession_optional). The shop waits as long, then"
        " shows the product and says that the cart cannot be seen."
    ),
    "outage_about": "this page does not use the session. It comes at once, as always.",
    "outage_after": (
        "Then start the server again. The shop asks it anew by itself, and your cart is as it was."
    ),
    "outage_yours": "You have stopped the session server yourself. Here you start it again:",
    "panel": "What this request asked of the session",
    "panel_about": (
        "Each line is one operation. A round trip is one packet to the server and its answer:"
        " the request waits for it. µs is how long that took, in millionths of a second."
    ),
    "panel_created": (
        "There was no session before this write: it made one, with a cookie, in the same"
        " operation as it stored the value. Like any write it costs one round trip, or two if"
        " the server does not know the package's script yet. Before the first write the server"
        " holds nothing for a visitor, so looking at pages costs nothing."
    ),
    "panel_dead": (
        "The session of this cookie is no more: the server says so and changes nothing. A write"
        " then makes a new session, with one more operation."
    ),
    "panel_none": "The server was not asked: this cost no round trip.",
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
    "users": "Of the user",
    "again": "Try again",
    "gone_title": "Your session has ended",
    "gone": (
        "It ended, or was renewed, by another of your requests while this one was under"
        " way. Nothing was changed by this one. Please try again in a few seconds."
    ),
    "unavailable_title": "Back in a moment",
    "unavailable": (
        "The place where we keep your cart does not answer just now. Please try again in a"
        " few seconds."
    ),
    "crowded_title": "Signed in at too many places",
    "crowded": "Please sign out at one of them first.",
    "refused_title": "This cannot be done",
    "refused": (
        "The form was incomplete, came from another site, or is older than your sign-in. Load"
        " its page anew and send it once more."
    ),
    "not_found_title": "There is no such page",
    "not_found": "It may have moved, or the address has a slip of the pen.",
}
