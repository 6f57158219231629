//! `/`: a page for people that shows what `/api/state` tells. It is served to everybody: it holds no data.

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY};
use axum::response::{IntoResponse, Response};
use base64ct::{Base64, Encoding as _};

/// All of the page.
const PAGE: &str = include_str!("page.html");

/// The page and what it may do, made once.
#[derive(Debug, Clone)]
pub(super) struct Page {
    policy: String,
}

impl Page {
    /// Only the style and the script that are in the page apply, and only this server is asked.
    pub(super) fn new() -> Self {
        let (style, script) = (hash(inner(PAGE, "style")), hash(inner(PAGE, "script")));
        Self {
            policy: format!(
                "default-src 'none'; style-src '{style}'; script-src '{script}'; connect-src 'self'; img-src data:; \
                 base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            ),
        }
    }

    pub(super) fn answer(&self) -> Response {
        let headers: [(HeaderName, &str); 3] = [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CONTENT_SECURITY_POLICY, &self.policy),
            (REFERRER_POLICY, "no-referrer"),
        ];
        (headers, PAGE).into_response()
    }
}

/// What is between an element's tags; it is there once.
fn inner<'a>(page: &'a str, element: &str) -> &'a str {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    page.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(inner, _)| inner)
}

/// As a Content-Security-Policy names a text (CSP level 3, section 2.3.1).
fn hash(text: &str) -> String {
    format!("sha256-{}", Base64::encode_string(digest(&SHA256, text.as_bytes()).as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_style_and_one_script_and_nothing_from_elsewhere() {
        for element in ["style", "script"] {
            assert!(inner(PAGE, element).len() > 100);
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "{element}");
        }
        for not in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "http:",
            "https:",
            " style=",
            " onclick=",
        ] {
            assert!(!PAGE.contains(not), "{not}");
        }
        // The example of the specification.
        assert_eq!(hash("alert('Hello, world.');"), "sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng=");
    }
}
