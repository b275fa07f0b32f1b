"""Login by OpenID Connect, and log-out that holds on the server's side.

OAuthenticator carries the protocol (state, PKCE, code for token); what decides who somebody is, and whether
they proved a second factor, is in :mod:`orchestrator.hub.claims`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jupyterhub import orm
from oauthenticator.generic import GenericOAuthenticator
from oauthenticator.oauth2 import OAuthCallbackHandler, OAuthLoginHandler, OAuthLogoutHandler
from tornado import web
from tornado.httpclient import HTTPClientError, HTTPRequest
from traitlets import Any as AnyTrait
from traitlets import Unicode

from orchestrator.errors import BulleError, InputError, RefusedError, UnavailableError
from orchestrator.governance.client import AsyncAuthorityClient
from orchestrator.governance.identity import person_id
from orchestrator.hub.claims import (
    Identity,
    SecondFactorError,
    identity,
    require_second_factor,
    verify_id_token,
)
from orchestrator.hub.provider import Endpoints, Provider
from orchestrator.hub.renewal import PATIENCE, Renewals, read_answer
from orchestrator.terms import Event, Outcome

__all__ = ["BulleAuthenticator", "login_fault", "nonce_for", "person_id"]


def challenge_of(verifier: str) -> str:
    """The PKCE challenge (RFC 7636, S256) of a verifier."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def nonce_for(challenge: str) -> str:
    """The nonce of a login, from its PKCE challenge: both are public, and made for this login alone."""
    return hashlib.sha256(b"nonce:" + challenge.encode()).hexdigest()


class LoginFault(web.HTTPError):
    """A login that ended; templates choose their words by ``bulle_kind``."""

    def __init__(self, status: int, kind: str, message: str, hint: str | None) -> None:
        super().__init__(status)
        self.bulle_kind = kind
        self.bulle_hint = hint
        self.jupyterhub_message = message


def login_fault(error: BulleError) -> LoginFault:
    """The page that a person gets for ``error``."""
    if isinstance(error, SecondFactorError):
        kind, status = "second-factor", 403
    elif isinstance(error, RefusedError):
        kind, status = "login-refused", 403
    else:
        kind, status = "login-unavailable", 503
    return LoginFault(status, kind, error.message, error.hint)


def end_logins(db: Any, user: Any) -> None:
    """End all logins of a person on the server's side, in every browser."""
    # Clearing cookies alone would leave a copied one valid (CVE-2021-41247): the secret in the hub's cookie is
    # changed, and the tokens of the portal and the bridges go. tests/integration/test_login.py keeps a copy.
    user.orm_user.cookie_id = orm.new_token()
    for token in db.query(orm.APIToken).filter(orm.APIToken.user_id == user.id, orm.APIToken.client_id != "jupyterhub"):
        db.delete(token)
    db.commit()


class BulleLoginHandler(OAuthLoginHandler):
    """Sends the browser to the provider."""

    async def get(self) -> None:
        """Redirect to the provider's authorization endpoint, which is discovered first."""
        try:
            await self.authenticator.discover()
        except BulleError as error:
            self.log.error("login: %s", error)
            raise login_fault(error) from error
        super().get()

    def authorize_redirect(self, *args: Any, extra_params: dict[str, Any], **kwargs: Any) -> None:
        """Add what OpenID Connect asks for beyond OAuth."""
        params = {**extra_params, "nonce": nonce_for(extra_params["code_challenge"])}
        oidc = self.authenticator.oidc
        if oidc.require_mfa and oidc.mfa_acr:
            params["acr_values"] = " ".join(oidc.mfa_acr)
        # After a login without a second factor: the provider's session must not answer the same again.
        if self.get_argument("again", None):
            params["prompt"] = "login"
        super().authorize_redirect(*args, extra_params=params, **kwargs)


class BulleCallbackHandler(OAuthCallbackHandler):
    """Takes the browser back from the provider."""

    def check_error(self) -> None:
        """Show what the provider said in a page of ours, as a refusal."""
        if self.get_argument("error", ""):
            said = self.get_argument("error_description", "") or self.get_argument("error")
            raise login_fault(RefusedError(f"the login service says: {said[:300]}"))


class BulleLogoutHandler(OAuthLogoutHandler):
    """Logs out on the server's side, in every browser of the person."""

    async def default_handle_logout(self) -> None:
        """End the person's sessions. Workspaces run on: long computations outlive a working day."""
        user = self.current_user
        self._id_token = ""
        if user:
            state = await user.get_auth_state()
            self._id_token = (state or {}).get("id_token", "")
        await super().default_handle_logout()
        if not user:
            return
        end_logins(self.db, user)
        await user.save_auth_state(None)
        try:
            await self.authenticator.audit("session.logout", user.name, Outcome.DONE)
        except BulleError as error:
            # The person is out already, which must never depend on the log.
            self.log.error("log-out of %s was not audited: %s", user.name, error)

    async def render_logout_page(self) -> None:
        """Log out at the provider too, so that the next person at this screen is asked for a password."""
        token = getattr(self, "_id_token", "")
        end_session = self.authenticator.end_session_url
        if token and end_session:
            back = self.authenticator.get_callback_url(self).removesuffix("oauth_callback") + "logout"
            query = urlencode({"id_token_hint": token, "post_logout_redirect_uri": back})
            self.redirect(f"{end_session}{'&' if '?' in end_session else '?'}{query}")
            return
        self.finish(await self.render_template("logout.html"))


class BulleAuthenticator(GenericOAuthenticator):
    """Anybody whom the provider knows may log in; what they may see is governance's to say, not the hub's."""

    login_handler = BulleLoginHandler
    callback_handler = BulleCallbackHandler
    logout_handler = BulleLogoutHandler

    oidc = AnyTrait(config=True, help="The settings' section `oidc`.")
    authority_socket = Unicode(config=True, help="The authority's socket for the hub.")
    end_session_url = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._provider = Provider(self.oidc.issuer, self._read)
        self.renewals = Renewals(
            self.oidc.refresh_seconds,
            renew=self._renew,
            follow=self._follow,
            gone=self._gone,
            end=self._end,
            say=self.log.warning,
        )
        # The hub makes its one authenticator in its event loop; a test, or a command, has no hub.
        if self.parent is not None and self.oidc.refresh_seconds:
            self._watch = asyncio.ensure_future(self.renewals.watch(self._logged_in))

    # -- names and rights --------------------------------------------------------------------------
    def normalize_username(self, username: str) -> str:
        """Keep names as they are: lower-casing could merge two persons. ``person_id`` alone makes ids."""
        return username

    def validate_username(self, username: str) -> bool:
        """Only ids of the form that ``person_id`` makes are users of this hub."""
        plain = username.removeprefix("sub~")
        try:
            return person_id(plain) == plain
        except InputError:
            return False

    def is_admin(self, handler: Any, authentication: Any) -> bool:
        """Nobody: administrators of the platform need no right in the hub, so that it has none to steal."""
        return False

    async def refresh_user(self, user: Any, handler: Any = None, **kwargs: Any) -> bool:
        """Whether the provider still knows the person. Every start asks, and asks the authority besides."""
        return not self.oidc.refresh_seconds or await self.renewals.still_known(user)

    def _logged_in(self) -> list[Any]:
        """The users of whom a login is kept."""
        kept = self.parent.db.query(orm.User).filter(orm.User.encrypted_auth_state.is_not(None))
        return [self.parent.users[found] for found in kept]

    async def _renew(self, refresh_token: str) -> dict[str, Any]:
        found = await self.discover()
        # A question that takes longer than an interval would make the next one of others too late.
        patience = min(10, self.oidc.refresh_seconds)
        request = HTTPRequest(
            found.token,
            method="POST",
            headers=self.build_token_info_request_headers(),
            body=urlencode(self.build_refresh_token_request_params(refresh_token)),
            connect_timeout=patience,
            request_timeout=patience,
            follow_redirects=False,
        )
        try:
            answer = await self.http_client.fetch(request, raise_error=False)
        except (HTTPClientError, OSError) as error:
            raise UnavailableError(f"the login service does not answer: {error}") from error
        return read_answer(answer.code, answer.body or b"")

    async def _follow(self, user: Any, answer: Mapping[str, Any]) -> None:
        """Tell the authority what fresh tokens say of the person; not every provider says it again."""
        id_token = answer.get("id_token")
        if not isinstance(id_token, str):
            return
        claims = verify_id_token(
            id_token,
            await self._provider.key_for(id_token),
            issuer=(await self.discover()).issuer,
            client_id=self.client_id,
            nonce=None,
        )
        who = identity(claims, None, self.oidc.groups_claim)
        if who.person != user.name:
            raise RefusedError("the login service's fresh tokens are about somebody else")
        if self.oidc.group_roles and self.oidc.groups_claim in claims:
            async with AsyncAuthorityClient(Path(self.authority_socket)) as authority:
                await authority.person_follow(who.person, self._groups(who))

    async def _gone(self, person: str) -> None:
        async with AsyncAuthorityClient(Path(self.authority_socket)) as authority:
            await authority.person_gone(person)

    async def _end(self, user: Any) -> None:
        end_logins(self.parent.db, user)
        try:
            await self.audit("session.unconfirmed", user.name, Outcome.DONE)
        except BulleError as error:
            self.log.error("the end of %s's logins was not audited: %s", user.name, error)

    # -- the provider ------------------------------------------------------------------------------
    async def _read(self, url: str) -> bytes:
        request = HTTPRequest(url, connect_timeout=5, request_timeout=10, follow_redirects=False)
        try:
            answer = await self.http_client.fetch(request)
        except HTTPClientError as error:
            raise OSError(str(error)) from error
        body: bytes = answer.body
        return body

    async def discover(self) -> Endpoints:
        """Learn the provider's endpoints, if they are not known yet.

        Raises:
            UnavailableError: it does not answer; nobody can log in until it does.
        """
        found = await self._provider.endpoints()
        self.authorize_url = found.authorization
        self.token_url = found.token
        self.userdata_url = found.userinfo or ""
        self.basic_auth = not found.secret_in_body
        self.end_session_url = found.end_session or ""
        return found

    # -- login -------------------------------------------------------------------------------------
    async def authenticate(self, handler: Any, data: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Exchange the code, verify the ID token, decide, and write the login to the audit log.

        Everything that can fail does so before the hub makes a session: no session exists that the log does
        not show.

        Raises:
            web.HTTPError: with a page that says why and what to do.
        """
        try:
            who, answer = await self._identify(handler)
            try:
                require_second_factor(who, self.oidc)
                async with AsyncAuthorityClient(Path(self.authority_socket)) as authority:
                    await authority.person_upsert(
                        who.person, who.subject, who.display_name, who.email or "", self._groups(who)
                    )
            except RefusedError as refused:
                await self.audit("session.login", who.person, Outcome.REFUSED, _detail(who, refused.message))
                raise
            await self.audit("session.login", who.person, Outcome.DONE, _detail(who))
            self._warn_of_no_refresh_token(answer)
        except BulleError as error:
            self.log.warning("login: %s", error)
            raise login_fault(error) from error
        # Only what logging out at the provider, and asking it again, needs is kept, encrypted; no access token.
        return {"name": who.person, "admin": False, "auth_state": self.renewals.kept(answer)}

    def _warn_of_no_refresh_token(self, answer: Mapping[str, Any]) -> None:
        if self.oidc.refresh_seconds and not answer.get("refresh_token"):
            self.log.error(
                "the login service gave no refresh token, so it cannot say whether people are still there: logins end "
                "after %d s (docs/login.md: offline_access in oidc.scopes, or a setting of the client there)",
                PATIENCE * self.oidc.refresh_seconds,
            )

    async def _identify(self, handler: Any) -> tuple[Identity, dict[str, Any]]:
        endpoints = await self.discover()
        params = self.build_access_tokens_request_params(handler)
        params.pop("data", None)
        answer = await self._ask(self.get_token_info(handler, params), "does not accept the login")
        id_token = answer.get("id_token")
        if not isinstance(id_token, str):
            raise RefusedError("the login service gave no ID token", hint="oidc.scopes must contain openid")
        claims = verify_id_token(
            id_token,
            await self._provider.key_for(id_token),
            issuer=endpoints.issuer,
            client_id=self.client_id,
            nonce=nonce_for(challenge_of(str(params["code_verifier"]))),
        )
        userinfo = None
        if endpoints.userinfo and "name" not in claims:
            userinfo = await self._ask(self.token_to_user(answer), "does not say who logs in")
        return identity(claims, userinfo, self.oidc.groups_claim), answer

    def _groups(self, who: Identity) -> list[str]:
        """The person's groups that stand for a role here; the others are nobody's business."""
        return sorted(who.groups & self.oidc.group_roles.keys())

    async def _ask(self, question: Any, what: str) -> dict[str, Any]:
        try:
            answer = await question
        except HTTPClientError as error:
            raise UnavailableError(f"the login service {what} ({error.code})", hint="log in again") from error
        except (OSError, ValueError) as error:
            raise UnavailableError(f"the login service {what}: {error}", hint="log in again") from error
        if not isinstance(answer, dict):
            raise UnavailableError(f"the login service {what}", hint="log in again")
        return answer

    async def audit(self, kind: str, person: str, outcome: Outcome, detail: dict[str, Any] | None = None) -> None:
        """Write one event; it is in the log when this returns.

        Raises:
            BulleError: it is not.
        """
        event = Event(kind=kind, actor=person, person=person, outcome=outcome, detail=detail or {})
        async with AsyncAuthorityClient(Path(self.authority_socket)) as authority:
            await authority.record(event)


def _detail(who: Identity, reason: str | None = None) -> dict[str, Any]:
    detail: dict[str, Any] = {"amr": list(who.methods)}
    if who.context:
        detail["acr"] = who.context
    if reason:
        detail["reason"] = reason
    return detail
