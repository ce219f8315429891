"""JSON Web Tokens, client certificates and roles of one view, each for real: signed, verified, and over TLS connections."""

import datetime as dt
import json
import os

import grpc
import jwt
import pytest
from certificates import Authority, pem, server_files
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from featurestore.errors import AccessDeniedError, ConfigError, UnauthenticatedError, UnavailableError
from featurestore.registry.credentials import Credentials, check_roles
from featurestore.serving.authentication import Authenticator, JwtSettings, JwtVerifier
from featurestore.serving.call import Call
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.testing.served import ServedProject

NOW = dt.datetime.now(dt.UTC)
CLAIMS = {
    "iss": "https://id",
    "aud": "features",
    "sub": "svc-jwt",
    "exp": NOW + dt.timedelta(hours=1),
    "roles": ["reader", "king"],
}


@pytest.fixture(scope="module")
def signing_key():
    return ec.generate_private_key(ec.SECP256R1())


def write_keys(path, **keys):
    written = [
        {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())), "kid": kid, "alg": "ES256"}
        for kid, key in keys.items()
    ]
    path.write_text(json.dumps({"keys": written}))
    return JwtSettings(path, "https://id", "features")


def token(key, kid="a", algorithm="ES256", **claims):
    return jwt.encode({**CLAIMS, **claims}, key, algorithm=algorithm, headers={"kid": kid})


def bearer(secret):
    return Call("", {"authorization": f"Bearer {secret}"})


def test_a_json_web_token_names_its_principal_and_the_roles_there_are(tmp_path, signing_key):
    verifier = JwtVerifier(write_keys(tmp_path / "jwks.json", a=signing_key))
    principal, until = Authenticator(Credentials(), local=False, jwt=verifier).establish(bearer(token(signing_key)))
    assert (principal.name, principal.roles) == ("svc-jwt", {"reader"})
    assert until == int(CLAIMS["exp"].timestamp() + 30) * 1_000_000


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": NOW - dt.timedelta(minutes=2)}, "expired"),
        ({"aud": "others"}, "[Aa]udience"),
        ({"iss": "https://evil"}, "[Ii]ssuer"),
        ({"sub": None}, "[Ss]ub"),
        ({"nbf": NOW + dt.timedelta(hours=1)}, "not yet valid"),
    ],
)
def test_a_token_that_is_over_or_for_others_does_not_count(tmp_path, signing_key, claims, why):
    verifier = JwtVerifier(write_keys(tmp_path / "jwks.json", a=signing_key))
    with pytest.raises(UnauthenticatedError, match=why):
        verifier.verify(token(signing_key, **claims))


def test_a_token_of_another_key_or_without_a_signature_does_not_count(tmp_path, signing_key):
    verifier = JwtVerifier(write_keys(tmp_path / "jwks.json", a=signing_key))
    stranger = ec.generate_private_key(ec.SECP256R1())
    for forged in (
        token(stranger),
        token(signing_key, kid="b"),
        token(None, algorithm="none"),
        token("secret of many bytes, shared by nobody", algorithm="HS256"),
        token(signing_key)[:-4] + "AAAA",
        "a.b.c",
    ):
        with pytest.raises(UnauthenticatedError):
            verifier.verify(forged)


def test_keys_are_read_again_when_their_file_changes(tmp_path, signing_key):
    path = tmp_path / "jwks.json"
    verifier = JwtVerifier(write_keys(path, a=signing_key))
    other = ec.generate_private_key(ec.SECP256R1())
    write_keys(path, b=other)
    os.utime(path, ns=(1, 1))
    assert verifier.refresh()
    assert not verifier.refresh()
    assert verifier.verify(token(other, kid="b"))[0] == "svc-jwt"
    with pytest.raises(UnauthenticatedError, match="not known here"):
        verifier.verify(token(signing_key))
    path.write_text("{}")
    with pytest.raises(ConfigError, match="JWKS"):
        verifier.refresh()
    assert verifier.verify(token(other, kid="b"))[0] == "svc-jwt"


def test_roles_of_one_view_reach_no_other(tmp_path):
    check_roles(frozenset({"reader:weather", "writer:weather"}))
    with ServedProject(tmp_path, GrpcAioTransport, auth="required") as served:
        served.fill()
        row = {"user_id": [7], "event_timestamp": [1], "score": [1.0]}
        weather = {"origin": ["JFK"], "event_timestamp": [1], "temp": [1.0], "humid": [1], "note": ["x"]}
        with served.client(token=served.token("narrow", "reader:weather", "writer:activity")) as client:
            assert client.get_online_features(["weather:temp"], {"origin": ["JFK"]}).to_dict() == {"temp": [40.5]}
            assert client.write("activity", row).accepted == 1
            with pytest.raises(AccessDeniedError, match="no reader of 'activity'"):
                client.get_online_features(["activity:score"], {"user_id": [7]})
            with pytest.raises(AccessDeniedError, match="no writer of 'weather'"):
                client.write("weather", weather)
            with pytest.raises(AccessDeniedError, match="no writer of 'weather'"):
                list(
                    client.stream_write(
                        "weather",
                        [{"origin": ["J"], "event_timestamp": [1], "temp": [1.0], "humid": [1], "note": ["x"]}],
                    )
                )


# --- certificates ----------------------------------------------------------------------------------------------------------------------


def read(served, **credentials):
    with served.client(credentials=grpc.ssl_channel_credentials(**credentials), timeout=5.0) as client:
        return client.get_online_features(["weather:temp"], {"origin": ["XXX"]}).to_dict()


@pytest.fixture
def no_environment(monkeypatch):
    monkeypatch.delenv("FEATURESTORE_TOKEN", raising=False)


def filled(served):
    row = {"origin": ["JFK"], "event_timestamp": [dt.datetime(2020, 1, 1)], "temp": [1.0], "humid": [1], "note": ["a"]}
    writer = served._writer._writer
    import pyarrow as pa

    from featurestore.refs import ViewRef

    writer.write(ViewRef.parse("weather"), pa.table(row))


def test_a_client_certificate_is_a_principal_with_the_roles_of_the_settings(tmp_path, no_environment):
    ours, theirs = Authority("ours"), Authority("theirs")
    files = server_files(tmp_path, ours, client_ca=ours)
    roles = {"spiffe://prod/delay": ("reader",)}
    with ServedProject(tmp_path, GrpcAioTransport, auth="required", tls=files, roles=roles) as served:
        filled(served)
        root = pem(ours.certificate)

        def read_as(authority, *names):
            certificate, key = authority.issue("delay", *map(x509.UniformResourceIdentifier, names))
            return read(served, root_certificates=root, private_key=key, certificate_chain=certificate)

        assert read_as(ours, "spiffe://prod/delay") == {"temp": [None]}
        with pytest.raises(AccessDeniedError, match="spiffe://prod/other"):
            read_as(ours, "spiffe://prod/other")
        with pytest.raises(UnavailableError):
            read_as(theirs, "spiffe://prod/delay")
        with pytest.raises(UnavailableError):
            read(served, root_certificates=root)


def test_a_new_server_certificate_is_taken_up_without_a_restart(tmp_path, no_environment):
    first, second = Authority("first"), Authority("second")
    files = server_files(tmp_path, first)
    with ServedProject(tmp_path, GrpcAioTransport, tls=files) as served:
        filled(served)
        assert read(served, root_certificates=pem(first.certificate)) == {"temp": [None]}
        server_files(tmp_path, second)
        assert read(served, root_certificates=pem(second.certificate)) == {"temp": [None]}
        with pytest.raises(UnavailableError):
            read(served, root_certificates=pem(first.certificate))
