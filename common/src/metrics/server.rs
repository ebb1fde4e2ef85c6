//! `/metrics` over HTTP/1.1, for Prometheus.

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves until cancelled what `page` gives at every request. Whoever reaches the port may read it: there is nothing to change.
pub async fn serve<F, P>(listener: TcpListener, page: F, cancel: CancellationToken)
where
    F: Fn() -> P + Send + Sync + 'static,
    P: Future<Output = String> + Send,
{
    let page = Arc::new(page);
    let metrics = move || {
        let page = page.clone();
        async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page().await) }
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "the metrics are at /metrics\n") });
    let served = axum::serve(listener, router).with_graceful_shutdown(cancel.clone().cancelled_owned());
    // A client that keeps its connection open does not keep us.
    tokio::select! {
        ended = served => if let Err(error) = ended { tracing::error!(%error, "metrics are not served any more") },
        () = cancel.cancelled() => {}
    }
}
