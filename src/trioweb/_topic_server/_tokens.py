"""Tokens: JSON Web Tokens that say who somebody is, and where they may be, as Centrifugo has them.

NOTE: How a token is signed follows from the key that this program was given, never from what the
token says of itself: a token signed with a public key as if that were a secret is refused, and so
is one that is not signed at all.

Source: RFC 7519, RFC 8725 section 3.1; Centrifugo's documentation of its tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from .._arguments import check_kind, wrong
from .._centrifuge._codes import DisconnectCode, ErrorCode
from .._refusals import Dismiss, Refuse
from ._rules import Granted, Welcome

Key: TypeAlias = str | bytes

# RFC 7518 section 3.2: as long as what the hash gives.
MIN_SECRET_BYTES: Final = 32
# To look at a token holds up others; those in use have a few hundred bytes.
_MAX_TOKEN_CHARS: Final = 16 * 2**10
_MAX_TOPICS: Final = 128
_PEM: Final = b"-----BEGIN "


class Tokens:
    """What the tokens of members are checked with, for `open_topic_server(tokens=…)`.

    A backend that issues tokens for Centrifugo works unchanged, as far as its tokens say `sub`,
    `exp`, `expire_at`, `nbf`, `aud`, `iss`, `info`, `b64info` and `channels`, or of a subscription
    `sub`, `channel`, `client` and the same.  What they say beside that is ignored, and grants
    nothing: `caps`, `subs`, `override` and `meta` are not supported, nor are keys by URL (JWKS).

    Args:
        keys: a secret (HS256; at least 32 bytes), or a public key as PEM (RSA: RS256; on the curve
            P-256: ES256); or several: a collection, each of which is tried, or a mapping whose
            keys are the `kid` of tokens.  A token without `kid` is tried with all.
        audience, issuer: what the `aud` and the `iss` of a token have to be; None: anything.

    Raises:
        ImportError: PyJWT[crypto] is not installed: `trioweb[jwt]`.
        TypeError, ValueError: a key cannot be one.
    """

    def __init__(
        self,
        keys: str | bytes | Iterable[str | bytes] | Mapping[str, str | bytes],
        *,
        audience: str | None = None,
        issuer: str | None = None,
    ) -> None:
        try:
            import cryptography as _needed  # noqa: F401 - without it PyJWT has secrets alone
            import jwt
        except ModuleNotFoundError as exc:
            raise ImportError("tokens need PyJWT[crypto]: pip install 'trioweb[jwt]'") from exc
        self._jwt = jwt
        check_kind("Tokens", "audience", audience, str, optional=True)
        check_kind("Tokens", "issuer", issuer, str, optional=True)
        self._audience = audience
        self._issuer = issuer
        self.replace_keys(keys)

    def __repr__(self) -> str:
        return f"<Tokens of {len(self._keys)} keys>"

    def __len__(self) -> int:
        return len(self._keys)

    def replace_keys(
        self, keys: str | bytes | Iterable[str | bytes] | Mapping[str, str | bytes]
    ) -> None:
        """Check the tokens that come from now on with *keys* instead; as for `Tokens`.

        What was granted before goes on until it ends.

        Raises:
            TypeError, ValueError: a key cannot be one; nothing was replaced.
        """
        if isinstance(keys, str | bytes):
            keys = [keys]
        named = keys if isinstance(keys, Mapping) else None
        if named is None and not isinstance(keys, Iterable):
            raise wrong("Tokens", "keys", "a key, several, or a mapping of them", keys)
        checked = [self._checked(key) for key in (named.values() if named else keys)]
        if not checked:
            raise ValueError("Tokens(keys=…): there must be one")
        self._keys = checked
        self._by_kid = None if named is None else dict(zip(named, checked, strict=True))

    @staticmethod
    def _checked(key: Key) -> tuple[Any, str]:
        """*key* as it is used, and the algorithm that it is for."""
        check_kind("Tokens", "each of keys", key, str, bytes)
        data = key.encode() if isinstance(key, str) else key
        if _PEM not in data:
            if len(data) < MIN_SECRET_BYTES:
                raise ValueError(
                    f"Tokens(keys=…): a secret of {len(data)} bytes can be guessed; "
                    f"it must have at least {MIN_SECRET_BYTES}"
                )
            return data, "HS256"
        from cryptography.hazmat.primitives.asymmetric import ec, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            public = load_pem_public_key(data)
        except ValueError as exc:
            raise ValueError("Tokens(keys=…): PEM that is no public key") from exc
        match public:
            case rsa.RSAPublicKey() if public.key_size >= 2048:
                return public, "RS256"
            case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
                return public, "ES256"
        raise ValueError(
            "Tokens(keys=…): a public key must be RSA of at least 2048 bits, or on the curve P-256"
        )

    def of_connection(self, token: str) -> Welcome:
        """What *token* says of whoever connects with it.

        Raises:
            Refuse: it has expired.
            Dismiss: it is none of ours.
        """
        claims = self._claims(token)
        topics = claims.get("channels") or ()
        if not isinstance(topics, list | tuple) or len(topics) > _MAX_TOPICS:
            raise Dismiss(DisconnectCode.INVALID_TOKEN)
        if not all(isinstance(topic, str) for topic in topics):
            raise Dismiss(DisconnectCode.INVALID_TOKEN)
        user = claims.get("sub", "")
        return Welcome(user=user, info=_info_of(claims), ttl=_ttl_of(claims), topics=topics)

    def of_subscription(self, token: str, *, user: str, client: str, topic: str) -> Granted:
        """What *token* grants the member *client*, who is *user*, in *topic*.

        Raises:
            Refuse: it has expired, or is for somebody else or another topic.
            Dismiss: it is none of ours.
        """
        claims = self._claims(token)
        is_theirs = claims.get("sub", "") == user and claims.get("client") in (None, "", client)
        if not is_theirs or claims.get("channel") != topic:
            raise Refuse(ErrorCode.PERMISSION_DENIED)
        return Granted(info=_info_of(claims), ttl=_ttl_of(claims))

    def _claims(self, token: str) -> dict[str, Any]:
        """What *token* says, if one of the keys has signed it."""
        jwt = self._jwt
        options = {
            "verify_exp": False,  # what has expired is told apart from what is wrong
            "verify_iat": False,  # of no use, and clocks differ
            "verify_aud": self._audience is not None,
            "verify_iss": self._issuer is not None,
        }
        if len(token) > _MAX_TOKEN_CHARS:
            raise Dismiss(DisconnectCode.INVALID_TOKEN)
        for key, algorithm in self._candidates(token):
            try:
                claims: dict[str, Any] = jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    audience=self._audience,
                    issuer=self._issuer,
                    options=options,
                )
            except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
                continue
            return claims
        raise Dismiss(DisconnectCode.INVALID_TOKEN)

    def _candidates(self, token: str) -> list[tuple[Any, str]]:
        """The keys that may have signed *token*."""
        if self._by_kid is None:
            return self._keys
        try:
            kid = self._jwt.get_unverified_header(token).get("kid")
        except (self._jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return []
        if kid is None:
            return self._keys
        return [self._by_kid[kid]] if kid in self._by_kid else []


def _info_of(claims: Mapping[str, Any]) -> Any:
    """What others are told: anything that is JSON.  Bytes are told as base64, as the token has
    them."""
    info = claims.get("info")
    return claims.get("b64info") or None if info is None else info


def _ttl_of(claims: Mapping[str, Any]) -> float | None:
    """How long what *claims* say is good, by the clock of this machine.

    The token is good until `exp`, and what it was used for until `expire_at`, if that is said,
    where 0 means for ever.

    Raises:
        Refuse: it is not any more.
        Dismiss: nobody can tell.
    """
    ttl = _time_until(claims.get("exp"))
    match claims.get("expire_at"):
        case None:
            return ttl
        case 0:
            return None
        case until:
            return _time_until(until)


def _time_until(until: object) -> float | None:
    if until is None:
        return None
    if isinstance(until, bool) or not isinstance(until, int | float) or not 0 <= until < 2**53:
        raise Dismiss(DisconnectCode.INVALID_TOKEN)
    ttl = until - time.time()
    if ttl <= 0:
        raise Refuse(ErrorCode.TOKEN_EXPIRED)
    return ttl
