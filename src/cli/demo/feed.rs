//! A rate feed on loopback that answers as Alpha Vantage does and moves like USD/JPY.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::extract::State;
use axum::routing::get;
use axum::{Router, response::IntoResponse};
use http::header;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Where the rate is in an answer, the feed's and the real service's.
pub(super) const POINTER: &str = "/Realtime Currency Exchange Rate/5. Exchange Rate";

const START: f64 = 106.53;
/// The walk never leaves these.
const LOWEST: f64 = 101.0;
const HIGHEST: f64 = 112.0;
/// The largest step between two answers.
const STEP: f64 = 0.03;
/// How strongly the rate is drawn back to where it began.
const PULL: f64 = 0.002;
const HALF_SPREAD: f64 = 0.004;

/// Starts to answer; gives the URL to poll.
pub(super) async fn start(shutdown: CancellationToken) -> anyhow::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no loopback port for the rate feed")?;
    let url = format!("http://{}/query", listener.local_addr()?);
    let router = Router::new().route("/query", get(answer)).with_state(Arc::new(Mutex::new(START)));
    tokio::spawn(super::super::http::serve(listener, router, shutdown));
    Ok(url)
}

async fn answer(State(rate): State<Arc<Mutex<f64>>>) -> impl IntoResponse {
    let rate = {
        let mut rate = rate.lock().unwrap_or_else(PoisonError::into_inner);
        *rate = next(*rate, fastrand::f64());
        *rate
    };
    let refreshed = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
    ([(header::CONTENT_TYPE, "application/json")], document(rate, &refreshed))
}

/// One step of the walk; `chance` is from 0 to 1.
fn next(rate: f64, chance: f64) -> f64 {
    let step = (chance * 2.0 - 1.0) * STEP + (START - rate) * PULL;
    (rate + step).clamp(LOWEST, HIGHEST)
}

fn document(rate: f64, refreshed: &str) -> String {
    // Yen are quoted to a thousandth; the service fills up with zeros.
    let quote = |rate: f64| format!("{rate:.3}00000");
    format!(
        r#"{{
    "Realtime Currency Exchange Rate": {{
        "1. From_Currency Code": "USD",
        "2. From_Currency Name": "United States Dollar",
        "3. To_Currency Code": "JPY",
        "4. To_Currency Name": "Japanese Yen",
        "5. Exchange Rate": "{}",
        "6. Last Refreshed": "{refreshed}",
        "7. Time Zone": "UTC",
        "8. Bid Price": "{}",
        "9. Ask Price": "{}"
    }}
}}
"#,
        quote(rate),
        quote(rate - HALF_SPREAD),
        quote(rate + HALF_SPREAD)
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cli::poll::Pointer;

    #[test]
    fn the_rate_moves_and_stays_in_bounds() {
        let mut rate = START;
        for round in 0..100_000_u32 {
            // Long runs in one direction, the worst there is.
            let chance = if (round / 10_000).is_multiple_of(2) { 1.0 } else { 0.0 };
            let moved = next(rate, chance);
            assert!((LOWEST..=HIGHEST).contains(&moved) && (moved - rate).abs() < 0.1);
            rate = moved;
        }
    }

    #[test]
    fn the_answer_has_the_rate_where_the_real_one_has_it() {
        let document = document(106.53, "2020-08-11 19:22:26");
        assert_eq!(POINTER.parse::<Pointer>().unwrap().pick(&document).unwrap(), r#""106.53000000""#);
    }
}
