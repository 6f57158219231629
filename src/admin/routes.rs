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
use super::plane::Plane;
use super::ready::readiness;

/// How long an answer may take to be made.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Prometheus' text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All paths.
pub(super) fn routes<P: Plane>(plane: Arc<P>, guard: &Arc<Guard>) -> Router {
    let guarded = Router::new()
        .fallback(|| async { (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n") })
        .layer(from_fn_with_state(Arc::clone(guard), guard::check));
    Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready::<P>))
        .route("/metrics", get(metrics::<P>))
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

async fn metrics<P: Plane>(State(plane): State<Arc<P>>) -> Response {
    ([(CONTENT_TYPE, EXPOSITION)], plane.recorded()).into_response()
}

/// Bounds the making of an answer, and keeps what is of this moment out of caches.
async fn in_time(request: Request, next: Next) -> Response {
    const HEADERS: [(HeaderName, &str); 2] = [(CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => (HEADERS, response).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, HEADERS, "no answer in time\n").into_response(),
    }
}
