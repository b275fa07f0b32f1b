"""Against SoftHSM, a real PKCS#11 token in software."""

from __future__ import annotations

from tests.unit.keys.conftest import Token


def test_a_key_on_a_token_wraps_and_unwraps_and_is_bound_to_the_id(token: Token) -> None:
    out = token.run(
        """
Pkcs11Custodian.create(**at, key_label="kek")
custodian = Pkcs11Custodian(**at, key_label="kek")
assert not custodian.embedded
key = bytes(range(32))
wrapped = custodian.wrap(key, "dataset/a/identifiers")
assert key not in wrapped and wrapped != custodian.wrap(key, "dataset/a/identifiers")
assert custodian.unwrap(wrapped, "dataset/a/identifiers") == key
altered = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
for bad, key_id in [(wrapped, "dataset/b/identifiers"), (altered, "dataset/a/identifiers"),
                    (b"", "dataset/a/identifiers"), (wrapped[:20], "dataset/a/identifiers")]:
    try:
        custodian.unwrap(bad, key_id)
    except CustodyError:
        continue
    raise SystemExit("unwrapped what it should not")
# another session finds the same key
assert Pkcs11Custodian(**at, key_label="kek").unwrap(wrapped, "dataset/a/identifiers") == key
try:
    Pkcs11Custodian.create(**at, key_label="kek")
except CustodyError as error:
    print(error)
"""
    )
    assert "already" in out


def test_the_key_cannot_be_read_out_of_the_token(token: Token) -> None:
    out = token.run(
        """
import pkcs11
Pkcs11Custodian.create(**at, key_label="inside")
custodian = Pkcs11Custodian(**at, key_label="inside")
try:
    print(custodian._key[pkcs11.Attribute.VALUE])
except pkcs11.exceptions.AttributeSensitive:
    print("refused")
"""
    )
    assert out == "refused"


def test_a_key_that_can_leave_the_token_is_refused(token: Token) -> None:
    out = token.run(
        """
from orchestrator.keys import pkcs11 as room
from pkcs11 import Attribute, KeyType
session = room._open_session(at["module"], at["token_label"], at["pin_file"])
session.generate_key(KeyType.AES, 256, label="loose", store=True,
                     template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True,
                               Attribute.ENCRYPT: True, Attribute.DECRYPT: True})
try:
    Pkcs11Custodian(**at, key_label="loose")
except CustodyError as error:
    print(error)
"""
    )
    assert "can be read out" in out


def test_what_is_missing_is_named(token: Token) -> None:
    out = token.run(
        """
for change in ({"key_label": "nokey"}, {"token_label": "notoken"}, {"module": Path("/no/module.so")},
               {"pin_file": Path("/no/pin")}):
    try:
        Pkcs11Custodian(**{"key_label": "kek", **at, **change})
    except CustodyError as error:
        print(error)
"""
    )
    lines = out.splitlines()
    assert len(lines) == 4
    assert "nokey" in lines[0]
    assert "notoken" in lines[1]
    assert "/no/module.so" in lines[2]
    assert "/no/pin" in lines[3]
