//! Which path answers what.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::guard::{self, Guard};
use super::metrics::Scrapes;
use super::page::Page;
use super::plane::Plane;
use super::ready::readiness;
use super::state::{Looks, state};
use super::tenants::tenants;

/// How long an answer may take to be made.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Prometheus' text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All paths.
pub(super) fn routes<P: Plane>(plane: Arc<P>, guard: &Arc<Guard>, tenants_max: usize) -> Router {
    let scrapes = Arc::new(Scrapes::new(tenants_max));
    let page = Page::new();
    let guarded = Router::new()
        .route("/api/state", get(state::<P>).with_state((Arc::clone(&plane), Arc::new(Looks::default()))))
        .route("/health/tenants", get(tenants::<P>))
        .with_state(Arc::clone(&plane))
        .fallback(|| async {
            (StatusCode::NOT_FOUND, "there are /, /metrics, /healthz, /readyz, /health/tenants and /api/state\n")
        })
        .layer(from_fn_with_state(Arc::clone(guard), guard::check));
    Router::new()
        .route("/", get(async move || page.answer()))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready::<P>))
        .route("/metrics", get(metrics::<P>).with_state((Arc::clone(&plane), scrapes)))
        .with_state(plane)
        .merge(guarded)
        .layer(from_fn(in_time))
}

async fn ready<P: Plane>(State(plane): State<Arc<P>>) -> Response {
    match readiness(&*plane) {
        Ok(text) => (StatusCode::OK, text + "\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

async fn metrics<P: Plane>(State((plane, scrapes)): State<(Arc<P>, Arc<Scrapes>)>) -> Response {
    ([(CONTENT_TYPE, EXPOSITION)], scrapes.render(&*plane).await).into_response()
}

/// Bounds the making of an answer, and keeps what is of this moment out of caches.
async fn in_time(request: Request, next: Next) -> Response {
    const HEADERS: [(HeaderName, &str); 2] = [(CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => (HEADERS, response).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, HEADERS, "no answer in time\n").into_response(),
    }
}
