//! Where a call comes from: the peer's identity and the user's token, as the transport shows them.

use http::{Extensions, HeaderMap};
use sensormesh_proto::Policy;
use sensormesh_types::{Error, Result};

use crate::identity::{PEER_HEADER, Peer, PeerAddr};
use crate::token::KEPT_FOR;
use crate::{Bearer, Config, Identity, OPERATOR, Transport, Verifier};

/// The header in which the edge says when it accepted a call that it kept: microseconds since the Unix epoch.
pub const ACCEPTED_TIME: &str = "sensormesh-accepted-time";
/// How far clocks may differ, microseconds.
const LEEWAY: i64 = 30_000_000;
/// The one that accepts calls for others.
const EDGE: &str = "edge";
/// An address is no longer than this, bytes.
const LONGEST_ADDRESS: usize = 64;

/// Envoy's header for the identity it proved.
const XFCC: &str = "x-forwarded-client-cert";

/// The proven identity at the other end, if there is one. An identity of another namespace is refused: the same service
/// name there is somebody else.
pub(super) fn peer(config: &Config, headers: &HeaderMap, extensions: &Extensions) -> Result<Option<Identity>> {
    let identity = match (extensions.get::<Peer>(), config.transport) {
        // proven by the client certificate, or attached by a channel of this process
        (Some(Peer(identity)), _) => Some(identity.clone()),
        (None, Transport::Mtls) => None,
        (None, Transport::Mesh) => {
            let trusted = extensions
                .get::<PeerAddr>()
                .is_some_and(|PeerAddr(from)| config.trusted_proxies.iter().any(|range| range.contains(from.ip())));
            if trusted { forwarded(headers) } else { None }
        }
        (None, Transport::Plaintext) => {
            headers.get(PEER_HEADER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok())
        }
    };
    match identity {
        Some(peer) if peer.trust_domain != config.trust_domain || peer.namespace != config.namespace => {
            Err(Error::forbidden(format!("{peer} does not belong to this mesh")))
        }
        identity => Ok(identity),
    }
}

/// The identity in the last element of the last header: what the sidecar next to us proved. Earlier ones are hearsay.
fn forwarded(headers: &HeaderMap) -> Option<Identity> {
    let last = headers.get_all(XFCC).iter().next_back()?.to_str().ok()?;
    let element = split(last, ',').into_iter().next_back()?;
    let mut uris = split(element, ';').into_iter().filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case("uri").then(|| value.trim().trim_matches('"'))
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => uri.parse().ok(),
        _ => None,
    }
}

/// Splits at separators that stand outside quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (index, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if character == separator && !quoted => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// The address of the client outside, which only the edge can know; of who calls directly the own one, of other services nothing.
pub(super) fn address(headers: &HeaderMap, peer: Option<&str>, extensions: &Extensions) -> String {
    match peer {
        Some(EDGE) => {
            let chain = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
            let last = chain.and_then(|chain| chain.rsplit(',').next()).map(str::trim).unwrap_or_default();
            if last.len() <= LONGEST_ADDRESS { last.to_owned() } else { String::new() }
        }
        Some(OPERATOR) | None => extensions.get::<PeerAddr>().map(|from| from.0.ip().to_string()).unwrap_or_default(),
        Some(_) => String::new(),
    }
}

/// The token of an `authorization: Bearer …` header. UNAUTHENTICATED for another scheme or more than one header.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let refuse = || Error::unauthenticated("the authorization header must be \"Bearer\" and a token, once");
    if values.next().is_some() {
        return Err(refuse());
    }
    let text = value.to_str().map_err(|_| refuse())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(refuse)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return Err(refuse());
    }
    Ok(Some(token.trim()))
}

/// When the edge accepted a call that it delivers now, microseconds since the Unix epoch. Nobody else is believed.
pub(super) fn accepted(headers: &HeaderMap, peer: Option<&Identity>, now: i64) -> Result<Option<i64>> {
    let Some(value) = headers.get(ACCEPTED_TIME) else { return Ok(None) };
    if peer.is_none_or(|peer| peer.service != EDGE) {
        return Err(Error::forbidden("only the edge says when a call was accepted"));
    }
    let accepted = value.to_str().ok().and_then(|text| text.parse::<i64>().ok());
    let oldest = now.saturating_sub(i64::try_from(KEPT_FOR.as_micros()).unwrap_or(i64::MAX));
    match accepted.filter(|accepted| (oldest..=now + LEEWAY).contains(accepted)) {
        Some(accepted) => Ok(Some(accepted)),
        None => Err(Error::precondition("ACCEPTED_TIME", "the call was accepted too long ago, or never")),
    }
}

/// The verified user or machine, if a token came with the call. A public method goes on without one where the token is no good:
/// a browser with an old token must be able to log in. A machine's token is looked at for nothing but what machines may do.
///
/// The token of a call that the edge accepted before is looked at as of then: it may have expired since.
pub(super) fn user(
    verifier: &Verifier,
    headers: &HeaderMap,
    policy: &Policy,
    accepted: Option<i64>,
) -> Result<Option<Bearer>> {
    let verify = |token| match Bearer::is_machines(token) && !policy.devices {
        true => Err(Error::forbidden("the credential of a device or a bridge is for sending readings only")),
        false => verifier.bearer(token, accepted.map(|micros| micros.div_euclid(1_000_000))),
    };
    let verified = bearer(headers).and_then(|token| token.map(verify).transpose());
    match verified {
        Err(_) if policy.public => Ok(None),
        verified => verified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(transport: Transport) -> Config {
        Config { transport, ..Config::default() }
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().expect("value"))])
    }

    fn from(address: &str) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(PeerAddr(address.parse().expect("address")));
        extensions
    }

    const ROOMS: &str = "spiffe://sensormesh.local/ns/sensormesh/sa/rooms";
    const EDGE_ID: &str = "spiffe://sensormesh.local/ns/sensormesh/sa/edge";

    #[test]
    fn the_last_element_of_xfcc_counts_and_only_from_the_proxy() {
        let text = format!("By=x;URI={EDGE_ID},By=y;Subject=\"CN=a,URI=b\";URI={ROOMS}");
        let headers = headers(XFCC, &text);
        let config = config(Transport::Mesh);
        let found = peer(&config, &headers, &from("127.0.0.6:1234")).expect("peer").expect("identity");
        assert_eq!(found.service, "rooms");
        assert_eq!(peer(&config, &headers, &from("10.0.0.1:1234")).expect("peer"), None);
    }

    #[test]
    fn headers_prove_nothing_under_mutual_tls() {
        for name in [XFCC, PEER_HEADER] {
            let headers = headers(name, &if name == XFCC { format!("URI={ROOMS}") } else { ROOMS.to_owned() });
            assert_eq!(peer(&config(Transport::Mtls), &headers, &from("127.0.0.1:1")).expect("peer"), None);
        }
    }

    #[test]
    fn a_service_of_another_namespace_or_domain_is_somebody_else() {
        for text in ["spiffe://sensormesh.local/ns/other/sa/rooms", "spiffe://evil/ns/sensormesh/sa/rooms"] {
            let mut extensions = Extensions::new();
            extensions.insert(Peer(text.parse().expect("identity")));
            assert!(peer(&config(Transport::Mtls), &HeaderMap::new(), &extensions).is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_edge_says_when_a_call_was_accepted() {
        let now = 1_800_000_000_000_000;
        let (edge, rooms) = (Identity::new("d", "n", "edge"), Identity::new("d", "n", "rooms"));
        let at = |micros: i64| headers(ACCEPTED_TIME, &micros.to_string());
        assert_eq!(accepted(&HeaderMap::new(), Some(&rooms), now).expect("none"), None);
        assert_eq!(accepted(&at(now - 1), Some(&edge), now).expect("kept"), Some(now - 1));
        for (headers, peer) in [
            (at(now), Some(&rooms)),
            (at(now), None),
            (at(now - 24 * 3600 * 1_000_000 - 1), Some(&edge)),
            (at(now + LEEWAY + 1), Some(&edge)),
            (headers(ACCEPTED_TIME, "yesterday"), Some(&edge)),
        ] {
            assert!(accepted(&headers, peer, now).is_err(), "{headers:?} {peer:?}");
        }
    }

    #[test]
    fn only_one_bearer_token_is_taken() {
        assert_eq!(bearer(&headers("authorization", "bearer abc")).expect("token"), Some("abc"));
        assert!(bearer(&headers("authorization", "Basic abc")).is_err());
        assert!(bearer(&headers("authorization", "abc")).is_err());
        let mut two = headers("authorization", "Bearer a");
        two.append("authorization", "Bearer b".parse().expect("value"));
        assert!(bearer(&two).is_err());
    }
}
