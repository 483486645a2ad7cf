"""The cookie: what is read from a header, and what is written to an answer."""

import base64
import hashlib
import hmac
import os
import random
import re
import secrets
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyramid.response import Response

from pyramid_altsession.config.table import SessionSettings
from pyramid_altsession.protocol.token import Claim, Token, new_verifier, proof_of
from pyramid_altsession.web.cookie import SessionCookie

OLD, NEW, OTHER = "an old secret of ours", "a newer secret of ours", "somebody else's secret"
TOKEN = Token("i" * 22, "v" * 43)


def cookie(**options: Any) -> SessionCookie:
    return SessionCookie(SessionSettings(**options))


def candidates(cookie: SessionCookie, header: str) -> list[tuple[str, str]]:
    found = cookie.candidates({"HTTP_COOKIE": header})
    return [(token.id, token.verifier) for token in found]


def pair(token: Token) -> tuple[str, str]:
    return token.id, token.verifier


# -- tokens


class TestToken:
    def test_new(self) -> None:
        """A selector of 16 and a verifier of 32 random bytes: 66 characters with the dot."""
        token = Token.new()
        assert re.fullmatch(r"[A-Za-z0-9_-]{22}", token.id)
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token.verifier)
        assert len(cookie().value(token)) == 66

    def test_tokens_come_from_secrets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """128 bits of the id and 256 of the verifier are drawn from the system's generator."""
        drawn: list[bytes] = []

        def token_bytes(size: int) -> bytes:
            drawn.append(os.urandom(size))
            return drawn[-1]

        monkeypatch.setattr(secrets, "token_bytes", token_bytes)
        token = Token.new()
        parts = [base64.urlsafe_b64decode(part + "==") for part in (token.id, token.verifier)]
        assert (parts, [len(part) * 8 for part in drawn]) == (drawn, [128, 256])

    def test_never_the_same(self) -> None:
        """No two tokens share anything."""
        tokens = [Token.new() for _ in range(1000)]
        assert len({token.id for token in tokens}) == 1000
        assert len({token.verifier for token in tokens} | {new_verifier()}) == 1001

    def test_proof(self) -> None:
        """The proof is the SHA-256 of the verifier's text."""
        assert proof_of("abc") == hashlib.sha256(b"abc").digest()
        assert TOKEN.claim == Claim(TOKEN.id, proof_of(TOKEN.verifier))

    def test_repr(self) -> None:
        """A token may stand in a log line or a traceback: no verifier in it."""
        assert repr(TOKEN) == f"<Token {TOKEN.id}>"
        assert TOKEN.verifier not in f"{TOKEN} {TOKEN!r} {TOKEN.claim!r} {[TOKEN]!r}"

    def test_repr_of_the_cookie(self) -> None:
        """Neither does the reader of cookies show its secrets."""
        assert NEW not in repr(cookie(secret=(NEW,)))


# -- reading


class TestCandidates:
    @pytest.mark.parametrize("secret", [(), (NEW,), (NEW, OLD)], ids=len)
    def test_what_was_sent_comes_back(self, secret: tuple[str, ...]) -> None:
        """A value of ours is read back as the same token."""
        reader, token = cookie(secret=secret), Token.new()
        assert candidates(reader, f"sid={reader.value(token)}") == [pair(token)]

    def test_no_header(self) -> None:
        """No cookie, no candidate."""
        assert cookie().candidates({}) == ()

    @pytest.mark.parametrize(
        "header",
        [
            "sid={}", " sid={}", "sid={} ", "a=b; sid={}", "sid={};a=b", "sid = {}", "sid=\t{}\t",
            ";;sid={};;", "a;sid={}", "=;sid={}", "sid2=x; sid={}", "xsid=x;sid={}",
            "a=sid; sid={}", 'sid="{}"', 'a=b; sid= "{}" ;c=d', "a=b, sid={}", "a=b,sid={}",
            "sid={},a=b", 'a=b,sid="{}", c=d', "sid={},",
        ],
    )  # fmt: skip
    def test_among_others(self, header: str) -> None:
        """It is found wherever it stands in the header, with blanks around it or not."""
        reader = cookie()
        assert candidates(reader, header.format(reader.value(TOKEN))) == [pair(TOKEN)]

    @pytest.mark.parametrize(
        "header",
        [
            "SID={}", "sid2={}", "xsid={}", "x sid={}", "sid", "sid=", "sid={}x", "sid=x{}",
            'sid="{}', 'sid={}"', 'sid=""{}""', 'sid=" {}"', "sid='{}'", "sid=={}", "a={}", "{}",
            "sid={}.", "sid={}\n", "sid=\x00{}", "$sid={}", "sid={}%3B", "sid={} x",
            "a=b,xsid={}", "a=b,sid={}x", "sid.={}", "sid=sid={}",
        ],
    )  # fmt: skip
    def test_malformed(self, header: str) -> None:
        """Anything else is no candidate."""
        reader = cookie()
        assert candidates(reader, header.format(reader.value(TOKEN))) == []

    @pytest.mark.parametrize("space", list("\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\r\n"), ids=repr)
    def test_other_white_space(self, space: str) -> None:
        """With white space that browsers keep it is another cookie's name: else a neighbouring
        host could set "\\xa0__Host-sid" and be taken for __Host-sid."""
        reader = cookie(cookie_name="__Host-sid")
        for header in (
            f"{space}__Host-sid=%s",
            f"__Host-sid{space}=%s",
            f"a=b;{space}__Host-sid=%s",
        ):
            assert candidates(reader, header % reader.value(TOKEN)) == []

    @pytest.mark.parametrize(
        "value",
        [
            "i" * 21 + "." + "v" * 43, "i" * 23 + "." + "v" * 43, "i" * 22 + "." + "v" * 42,
            "i" * 22 + "." + "v" * 44, "i" * 22 + "v" * 43, "i" * 22 + ".." + "v" * 43,
            "i" * 21 + "+." + "v" * 43, "i" * 21 + "/." + "v" * 43, "i" * 22 + "." + "v" * 42 + "=",
            "i" * 21 + "é." + "v" * 43, "i" * 21 + "\x00." + "v" * 43, "İ" * 22 + "." + "v" * 43,
            "i" * 22 + "." + "v" * 43 + "." + "s" * 43, "i" * 22 + "." + "v" * 43 + "." + "s" * 42,
            "*" * 22 + "." + "v" * 43, "i:j" + "i" * 19 + "." + "v" * 43,
        ],
    )  # fmt: skip
    def test_malformed_value(self, value: str) -> None:
        """A value that is not exactly selector, dot and verifier is no candidate."""
        assert candidates(cookie(), f"sid={value}") == []
        assert cookie().parse(value) is None

    def test_name_with_special_characters(self) -> None:
        """A cookie's name is taken as it is written."""
        reader = cookie(cookie_name="s.d+*")
        assert candidates(reader, f"s.d+*={reader.value(TOKEN)}") == [pair(TOKEN)]
        assert candidates(reader, f"sxdd={reader.value(TOKEN)}") == []

    def test_twice(self) -> None:
        """A name sent twice gives both, in the header's order."""
        first, second = Token.new(), Token.new()
        reader = cookie()
        header = f"sid={reader.value(first)}; sid={reader.value(second)}"
        assert candidates(reader, header) == [pair(first), pair(second)]

    def test_three_at_most(self) -> None:
        """Of many no more than three are looked at."""
        tokens = [Token.new() for _ in range(50)]
        reader = cookie()
        header = "; ".join(f"sid={reader.value(token)}" for token in tokens)
        assert candidates(reader, header) == [pair(token) for token in tokens[:3]]

    def test_malformed_ones_do_not_count(self) -> None:
        """However many malformed ones stand in front, they hide no good one."""
        reader = cookie()
        header = "sid=x; sid=; sid=y; " * 20 + f"sid={reader.value(TOKEN)}"
        assert candidates(reader, header) == [pair(TOKEN)]

    def test_forged_ones_count(self) -> None:
        """A signature is checked three times at most, so that a hostile header costs no more."""
        reader, forger = cookie(secret=(NEW,)), cookie(secret=(OTHER,))
        header = "; ".join(f"sid={forger.value(Token.new())}" for _ in range(3))
        assert candidates(reader, f"{header}; sid={reader.value(TOKEN)}") == []

    def test_unsigned_ones_do_not_count(self) -> None:
        """Where cookies are signed, those of the time before are malformed."""
        reader = cookie(secret=(NEW,))
        header = f"sid={cookie().value(TOKEN)}; " * 3 + f"sid={reader.value(TOKEN)}"
        assert candidates(reader, header) == [pair(TOKEN)]

    def test_two_signatures(self) -> None:
        """A session whose cookie came under two secrets is one candidate, in the first place."""
        reader, other = cookie(secret=(NEW, OLD)), Token.new()
        values = [reader.value(TOKEN), reader.value(other), cookie(secret=(OLD,)).value(TOKEN)]
        header = "; ".join(f"sid={value}" for value in values)
        assert candidates(reader, header) == [pair(TOKEN), pair(other)]

    def test_joined_lines_come_last(self) -> None:
        """What stands behind a comma may be a visitor's text in another cookie."""
        reader, planted = cookie(), Token.new()
        header = f"theme=x,sid={reader.value(planted)}; sid={reader.value(TOKEN)}"
        assert candidates(reader, header) == [pair(TOKEN), pair(planted)]

    @pytest.mark.parametrize("name", ["__Host-sid", "__HOST-sid", "__Secure-sid", "__Http-sid"])
    def test_browsers_check_the_name(self, name: str) -> None:
        """Where browsers keep other hosts from setting the cookie, a comma in a cookie of another
        name is no way around that; where ours begins the line, it ends at the comma."""
        reader = cookie(cookie_name=name)
        value = reader.value(TOKEN)
        assert candidates(reader, f"theme=x,{name}={value}; a=b") == []
        assert candidates(reader, f"theme=x, {name}={value}") == []
        assert candidates(reader, f"a=b; {name}={value},c=d,{name}={value}") == [pair(TOKEN)]

    def test_same_value_twice(self) -> None:
        """The same value sent twice is one candidate."""
        value = cookie().value(TOKEN)
        assert candidates(cookie(), f"sid={value}; sid={value}") == [pair(TOKEN)]

    @pytest.mark.parametrize(
        "header",
        ["sid=a" + " " * 200_000 + "b", "; " * 100_000 + "sid=", ";" + " " * 200_000 + "sid",
         "sid=" * 50_000, "sid" + " " * 200_000 + "x", "sid=a;" * 40_000, "\t" * 200_000,
         "sid=a," * 40_000, "," + " " * 200_000 + "sid", "," * 200_000, 'sid="' * 40_000],
        ids=lambda header: repr(header[:8]),
    )  # fmt: skip
    def test_long_headers_cost_little(self, header: str) -> None:
        """The time grows with the length and no faster: no header keeps a worker busy."""
        reader = cookie()
        began = time.process_time()
        assert candidates(reader, header + ";sid=") == []
        assert time.process_time() - began < 0.5


class TestSignature:
    def test_covers_token(self) -> None:
        """The value ends with HMAC-SHA-256 over name, prefix and token."""
        reader = cookie(secret=(NEW,), cookie_name="n", prefix="p")
        plain = f"{TOKEN.id}.{TOKEN.verifier}"
        mac = hmac.new(NEW.encode(), f"n\0p\0{plain}".encode(), "sha256").digest()
        assert reader.value(TOKEN) == f"{plain}.{base64.urlsafe_b64encode(mac).decode()[:43]}"

    def test_rotation(self) -> None:
        """The first secret signs, all verify: what an old one signed is still good."""
        before, during, after = (cookie(secret=s) for s in ((OLD,), (NEW, OLD), (NEW,)))
        signed = before.value(TOKEN)
        assert during.parse(signed) is not None
        assert after.parse(signed) is None
        assert during.value(TOKEN) == after.value(TOKEN) != signed
        assert before.parse(during.value(TOKEN)) is None

    def test_forged(self) -> None:
        """Another secret's signature is no candidate."""
        assert cookie(secret=(NEW, OLD)).parse(cookie(secret=(OTHER,)).value(TOKEN)) is None

    def test_unsigned(self) -> None:
        """Once a secret is set unsigned cookies are malformed, and signed ones without it."""
        assert cookie(secret=(NEW,)).parse(cookie().value(TOKEN)) is None
        assert cookie().parse(cookie(secret=(NEW,)).value(TOKEN)) is None

    @pytest.mark.parametrize("other", [{"cookie_name": "sid2"}, {"prefix": "other"}], ids=str)
    def test_bound_to_its_place(self, other: dict[str, str]) -> None:
        """The signature of another cookie's name, or of another application's prefix on the same
        server, is worth nothing here."""
        assert cookie(secret=(NEW,)).parse(cookie(secret=(NEW,), **other).value(TOKEN)) is None

    def test_name_and_prefix_do_not_run_together(self) -> None:
        """Name and prefix are told apart, whichever ends where."""
        one = cookie(secret=(NEW,), cookie_name="ab", prefix="c").value(TOKEN)
        assert cookie(secret=(NEW,), cookie_name="a", prefix="bc").parse(one) is None

    def test_every_character_counts(self) -> None:
        """A signed value with any character changed is no candidate."""
        reader = cookie(secret=(NEW, OLD))
        value = reader.value(TOKEN)
        for place, character in enumerate(value):
            for other in "AQgw_-.":
                if other != character:
                    assert reader.parse(value[:place] + other + value[place + 1 :]) is None

    def test_all_secrets_are_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every secret is compared, in constant time, also after a match."""
        compared: list[str] = []

        def compare(one: str, two: str) -> bool:
            compared.append(one)
            return one == two

        reader = cookie(secret=(NEW, OLD, OTHER))
        value = reader.value(TOKEN)
        monkeypatch.setattr("pyramid_altsession.web.cookie.hmac.compare_digest", compare)
        assert reader.parse(value) is not None
        assert len(set(compared)) == 3


# -- any header at all

READERS = [cookie(), cookie(secret=(NEW, OLD)), cookie(cookie_name="s+d")]
VALUES = [reader.value(TOKEN) for reader in READERS]
PIECES = [
    "sid", "s+d", "=", ";", "; ", " ", "\t", "\x00", '"', ",", ".", "\r\n", "\xa0", "sid=",
    "; sid=", ";s+d=", "; sid=", ";s+d=",
]  # fmt: skip


def check(header: str) -> int:
    """What comes out of any header was well-formed there, and signed; how much came out."""
    came = 0
    for reader in READERS:
        found = reader.candidates({"HTTP_COOKIE": header})
        came += len(found)
        assert len(found) <= 3
        for token in found:
            assert reader.value(token) in header
            assert re.fullmatch(r"[A-Za-z0-9_-]{22}", token.id)
            assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token.verifier)
    signed = READERS[1].candidates({"HTTP_COOKIE": header})
    assert {pair(token) for token in signed} <= {pair(TOKEN)}
    return came


@pytest.mark.slow
def test_no_pieced_header_does_harm() -> None:
    """Headers made of good, cut, changed and foreign pieces: nothing raises, and nothing but
    well-formed and well-signed values comes out."""
    rng = random.Random(1)
    came = 0
    for _ in range(20_000):
        header = ""
        for _ in range(rng.randrange(12)):
            kind = rng.random()
            piece = rng.choice(PIECES if kind < 0.6 else VALUES)
            if kind > 0.85:
                cut = rng.randrange(len(piece))
                piece = piece[:cut] + chr(rng.randrange(256)) * rng.randrange(2) + piece[cut + 1 :]
            header += piece
        came += check(header)
    assert came > 1000


@pytest.mark.volume
@settings(max_examples=1_000, deadline=None, derandomize=True)
@given(st.text(st.characters(max_codepoint=255)) | st.text(alphabet="sid=; .\t\x00+"))
@example("sid=" + "a" * 8192)
@example("sid=" + "\xc3\xbc" * 4000)
@example("sid" * 3000)
@example("sid=\r\nSet-Cookie: x=y")
def test_no_header_does_harm(header: str) -> None:
    """Any header at all: nothing raises and nothing comes out."""
    assert check(header) == 0


# -- writing


def sent(token: Token | None, **options: Any) -> dict[str, Any]:
    """The attributes of the cookie in an answer, names in lower case."""
    response = Response()
    cookie(**options).send(response, token)
    (header,) = response.headers.getall("Set-Cookie")
    first, *attributes = header.split("; ")
    name, _, value = first.partition("=")
    found: dict[str, Any] = {"name": name, "value": value}
    for attribute in attributes:
        key, equals, text = attribute.partition("=")
        found[key.lower()] = text if equals else True
    return found


PLAIN = {"path": "/", "httponly": True, "secure": True, "samesite": "Lax"}


class TestSend:
    def test_by_default(self) -> None:
        """Secure, HttpOnly, SameSite=Lax, for this host and the time the browser is open."""
        value = {"name": "sid", "value": cookie().value(TOKEN)}
        assert sent(TOKEN) == value | PLAIN

    def test_signed(self) -> None:
        """With a secret the signed value is sent."""
        reader = cookie(secret=(NEW,))
        assert reader.parse(sent(TOKEN, secret=(NEW,))["value"]) is not None

    OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"secure": False}, {"secure": None}),
        ({"same_site": "Strict"}, {"samesite": "Strict"}),
        ({"same_site": "None"}, {"samesite": "None"}),
        ({"domain": "example.com"}, {"domain": "example.com"}),
        ({"path": "/shop"}, {"path": "/shop"}),
        ({"partitioned": True}, {"partitioned": True}),
        ({"cookie_name": "__Host-sid"}, {"name": "__Host-sid"}),
        (
            {"domain": "a.b", "path": "/x", "same_site": "None", "partitioned": True},
            {"domain": "a.b", "path": "/x", "samesite": "None", "partitioned": True},
        ),
    ]

    @pytest.mark.parametrize(("options", "attributes"), OPTIONS, ids=lambda one: "+".join(one))
    def test_attributes(self, options: dict[str, Any], attributes: dict[str, Any]) -> None:
        """Each setting is an attribute; HttpOnly stays, whatever is set."""
        value = {"name": "sid", "value": cookie().value(TOKEN)}
        expected = value | PLAIN | attributes
        assert sent(TOKEN, **options) == {n: v for n, v in expected.items() if v is not None}

    @pytest.mark.parametrize("secret", [(), (NEW,), (NEW, OLD)], ids=len)
    def test_cookie_is_small(self, secret: tuple[str, ...]) -> None:
        """The value has 66 bytes, 110 with a signature: far from the 4096 that browsers take."""
        value = sent(Token.new(), secret=secret)["value"]
        assert len(value) == (110 if secret else 66)

    @pytest.mark.parametrize(("options", "attributes"), OPTIONS, ids=lambda one: "+".join(one))
    def test_dropping(self, options: dict[str, Any], attributes: dict[str, Any]) -> None:
        """Dropping has the same attributes, else browsers keep the cookie; and it is empty and
        over."""
        expected = {"name": "sid", "value": ""} | PLAIN | attributes
        dropped = sent(None, **options)
        assert dropped.pop("max-age") == "0"
        assert dropped.pop("expires").endswith("GMT")
        assert dropped == {n: v for n, v in expected.items() if v is not None}

    def test_max_age(self) -> None:
        """With max_age the browser keeps the cookie so many seconds; dropping is dropping."""
        kept = sent(TOKEN, max_age=3600)
        assert (kept["max-age"], kept["value"]) == ("3600", cookie().value(TOKEN))
        assert sent(None, max_age=3600)["max-age"] == "0"

    def test_beside_other_cookies(self) -> None:
        """Other cookies of the answer stay."""
        response = Response()
        response.set_cookie("other", "x")
        cookie().send(response, TOKEN)
        names = [line.partition("=")[0] for line in response.headers.getall("Set-Cookie")]
        assert names == ["other", "sid"]

    @pytest.mark.parametrize(
        ("said", "says"),
        [
            (None, "no-store"),
            ("", "no-store"),
            ("max-age=3600", "no-store"),
            ("public, max-age=60", "no-store"),
            ("s-maxage=60", "no-store"),
            ("must-revalidate", "no-store"),
            ("private", "private"),
            ("private, max-age=60", "private, max-age=60"),
            ("max-age=60, Private", "max-age=60, Private"),
            ("no-store", "no-store"),
            ("NO-CACHE", "no-store"),
            ('public, private="x-debug"', "no-store"),
            ('private="x-debug"', "no-store"),
            ('no-cache="x", max-age=60', "no-store"),
            ("private=x", "no-store"),
            ("public, x-no-private", "no-store"),
            ("x-private", "no-store"),
            ("no-store-x=1, x1private", "no-store"),
            ('public, x="a, private, b"', "no-store"),
            ('public, x="a\\", private, b"', "no-store"),
            ('public, x="a, private', "no-store"),
            ('public, x="a\\', "no-store"),
            ("public,private", "public,private"),
            ('x="a, b",\tprivate', 'x="a, b",\tprivate'),
        ],
    )
    @pytest.mark.parametrize("token", [TOKEN, None], ids=["set", "drop"])
    def test_cache_control(self, token: Token | None, said: str | None, says: str) -> None:
        """An answer with a cookie is kept by no shared cache; what already says so stays."""
        response = Response()
        if said is not None:
            response.headers["Cache-Control"] = said
        cookie().send(response, token)
        assert response.headers.getall("Cache-Control") == [says]

    def test_several_lines(self) -> None:
        """Of several Cache-Control lines all count."""
        for lines, says in (
            (["private", "max-age=60"], ["private", "max-age=60"]),
            (["max-age=60", "public"], ["no-store"]),
        ):
            response = Response()
            for line in lines:
                response.headers.add("Cache-Control", line)
            cookie().send(response, TOKEN)
            assert response.headers.getall("Cache-Control") == says

    def test_expires(self) -> None:
        """``http_cache=…`` of a view goes, Expires included; with private both stay."""
        response = Response()
        response.cache_expires(60)
        cookie().send(response, TOKEN)
        assert (response.cache_control.no_store, response.headers.get("Expires")) == (True, None)
        response = Response()
        response.cache_expires(60, private=True)
        cookie().send(response, TOKEN)
        assert response.cache_control.private
        assert "Expires" in response.headers
