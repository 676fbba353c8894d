//! The four services of bookinfo, as the tutorials call them.

use anyhow::{Context, Result};
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::{CALL_TIMEOUT, client, listen};

/// A service of bookinfo, with its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// `/details/<id>`
    Details,
    /// `/ratings/<id>`
    Ratings,
    /// `/reviews/<id>`, without ratings
    ReviewsV1,
    /// `/reviews/<id>`, with ratings
    ReviewsV2,
    /// `/reviews/<id>`, with ratings
    ReviewsV3,
    /// `/productpage`, which calls details and reviews
    Productpage,
}

/// Serves `service` for ever.
///
/// # Errors
/// The port is taken.
pub async fn serve(service: Service, port: u16) -> Result<()> {
    let router = match service {
        Service::Details => Router::new().route("/details/{id}", get(details)),
        Service::Ratings => Router::new().route("/ratings/{id}", get(ratings)),
        Service::ReviewsV1 => Router::new().route("/reviews/{id}", get(reviews_alone)),
        Service::ReviewsV2 | Service::ReviewsV3 => {
            Router::new().route("/reviews/{id}", get(reviews_with_ratings))
        }
        Service::Productpage => Router::new().route("/productpage", get(productpage)),
    };
    let router = router.route("/health", get(async || "ok\n"));
    axum::serve(listen(port).await?, router).await.context("serve bookinfo")
}

async fn details(Path(id): Path<u32>) -> Json<Value> {
    Json(json!({
        "id": id,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890"
    }))
}

async fn ratings(Path(id): Path<u32>) -> Json<Value> {
    Json(json!({ "id": id, "ratings": { "Reviewer1": 5, "Reviewer2": 4 } }))
}

fn reviews(id: u32, ratings: &Value) -> Value {
    json!({
        "id": id,
        "reviews": [
            { "reviewer": "Reviewer1", "rating": ratings["ratings"]["Reviewer1"] },
            { "reviewer": "Reviewer2", "rating": ratings["ratings"]["Reviewer2"] }
        ]
    })
}

async fn reviews_alone(Path(id): Path<u32>) -> Json<Value> {
    Json(reviews(id, &Value::Null))
}

async fn reviews_with_ratings(Path(id): Path<u32>) -> Result<Json<Value>, (StatusCode, String)> {
    Ok(Json(reviews(id, &call("ratings", &format!("/ratings/{id}")).await?)))
}

/// Unlike the original it does not hide a failed call behind a 200.
async fn productpage() -> Result<String, (StatusCode, String)> {
    let details = call("details", "/details/0").await?;
    let reviews = call("reviews", "/reviews/0").await?;
    Ok(format!("<html><title>Simple Bookstore App</title>\n{details}\n{reviews}\n</html>\n"))
}

async fn call(service: &str, path: &str) -> Result<Value, (StatusCode, String)> {
    let answer = client::get(service, 9080, path, CALL_TIMEOUT).await;
    let answer = answer.and_then(|answer| match answer.status {
        200 => Ok(serde_json::from_str(&answer.body)?),
        other => anyhow::bail!("status {other}"),
    });
    answer.map_err(|error| (StatusCode::BAD_GATEWAY, format!("{service}: {error:#}\n")))
}
