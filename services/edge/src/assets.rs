//! The dashboard and the documentation, as they were built into the program.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::LazyLock;

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use parking_lot::RwLock;
use rust_embed::RustEmbed;

/// What the dashboard may load and reach: its own files and its own edge.
const DASHBOARD_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                                font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; \
                                form-action 'self'; frame-ancestors 'none'";

#[derive(RustEmbed)]
#[folder = "dashboard/dist"]
#[allow_missing = true]
struct Dashboard;

#[derive(RustEmbed)]
#[folder = "docs"]
struct Docs;

/// Compressed files by path: each is compressed once, when it is first asked for.
static COMPRESSED: LazyLock<RwLock<HashMap<String, Bytes>>> = LazyLock::new(RwLock::default);

/// The file at a path. A path of the dashboard's own, such as `/rooms/hall`, is its first page.
pub fn find(path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let name = path.trim_start_matches('/');
    if let Some(page) = name.strip_prefix("docs").filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        let page = page.trim_matches('/');
        let page = if page.is_empty() { "index.html" } else { page };
        return Docs::get(page).map(|file| answer(&format!("docs/{page}"), file, headers));
    }
    if let Some(file) = Dashboard::get(name).filter(|_| !name.is_empty()) {
        return Some(answer(name, file, headers));
    }
    let wants_page =
        headers.get_all(ACCEPT).iter().any(|accept| accept.as_bytes().windows(9).any(|w| w == b"text/html"));
    // a name with a dot, or something for programs, is not there: a page in its place would only confuse
    let is_page = name.is_empty() || (wants_page && !name.contains('.') && !name.starts_with("v1/") && name != "v1");
    if !is_page {
        return None;
    }
    match Dashboard::get("index.html") {
        Some(file) => Some(answer("index.html", file, headers)),
        None if name.is_empty() => Docs::get("missing.html").map(|file| answer("docs/missing.html", file, headers)),
        None => None,
    }
}

fn answer(name: &str, file: rust_embed::EmbeddedFile, headers: &HeaderMap) -> Response<Body> {
    let hash = file.metadata.sha256_hash();
    let tag: String = std::iter::once("\"".to_owned())
        .chain(hash.iter().take(12).map(|byte| format!("{byte:02x}")))
        .chain(std::iter::once("\"".to_owned()))
        .collect();
    let mut response = Response::new(Body::empty());
    let set = response.headers_mut();
    // a file whose name holds its own hash never changes
    let cache = if name.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    set.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    set.insert(VARY, HeaderValue::from_static("accept-encoding"));
    set.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(DASHBOARD_POLICY));
    set.insert("x-frame-options", HeaderValue::from_static("DENY"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        set.insert(ETAG, tag);
    }
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let set = response.headers_mut();
    let mime = mime_guess::from_path(name).first_or_octet_stream();
    let text = mime.type_() == "text"
        || ["javascript", "json", "svg", "wasm"].iter().any(|t| mime.subtype().as_str().contains(t));
    let named = if mime.type_() == "text" { format!("{mime}; charset=utf-8") } else { mime.to_string() };
    if let Ok(named) = HeaderValue::from_str(&named) {
        set.insert(CONTENT_TYPE, named);
    }
    let gzip =
        headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("gzip"));
    let data = if gzip && text && file.data.len() > 1024 {
        set.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        compressed(name, &tag, &file.data)
    } else {
        Bytes::from(file.data.into_owned())
    };
    *response.body_mut() = Body::from(data);
    response
}

fn compressed(name: &str, tag: &str, data: &[u8]) -> Bytes {
    let key = format!("{name} {tag}");
    if let Some(known) = COMPRESSED.read().get(&key) {
        return known.clone();
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // writing to memory does not fail
    let bytes = encoder.write_all(data).and_then(|()| encoder.finish()).unwrap_or_default();
    COMPRESSED.write().entry(key).or_insert_with(|| bytes.into()).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, headers: &[(http::HeaderName, &'static str)]) -> Option<Response<Body>> {
        find(path, &headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect())
    }

    #[test]
    fn the_documentation_is_there_without_a_dashboard() {
        let page = get("/docs", &[]).expect("a page");
        assert_eq!(page.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(page.headers()[CONTENT_SECURITY_POLICY].to_str().expect("text").contains("frame-ancestors 'none'"));
        assert!(get("/docs/docs.js", &[]).is_some());
        assert!(get("/docs/nothing.js", &[]).is_none());
        assert!(get("/docsx", &[]).is_none());
    }

    #[test]
    fn the_first_page_is_there_and_what_programs_ask_for_is_not_a_page() {
        assert!(get("/", &[]).is_some());
        assert!(get("/v1/nothing", &[(ACCEPT, "text/html")]).is_none());
        assert!(get("/nothing", &[(ACCEPT, "application/json")]).is_none());
        assert!(get("/../Cargo.toml", &[(ACCEPT, "text/html")]).is_none());
    }

    #[test]
    fn a_file_that_is_known_is_not_sent_again() {
        let first = get("/docs", &[(ACCEPT_ENCODING, "gzip")]).expect("a page");
        let tag = first.headers()[ETAG].clone();
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, tag)]);
        assert_eq!(find("/docs", &headers).expect("a page").status(), StatusCode::NOT_MODIFIED);
    }
}
