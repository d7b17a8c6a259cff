//! The engine and the generator's client, face to face. These tests must never need a peer.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::Fault;
use crate::client::{Client, Target};
use crate::departure::{Ledger, NEVER, Phase, leave};

async fn engine() -> Result<Target, Fault> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(super::accept(listener));
    Ok(Target::plain(address))
}

#[tokio::test]
async fn one_connection_brings_answers_of_every_kind() -> Result<(), Fault> {
    let engine = engine().await?;
    let mut client = Client::connect(engine.address).await?;
    client.unary(&engine.chat(false, &json!({}))).await?;
    for (events, per_write) in [(0, 1), (1, 1), (100, 16), (1600, 1), (300, 64)] {
        let bench = json!({"events": events, "per_write": per_write});
        client.stream(&engine.chat(true, &bench), events).await?;
    }
    let models: Value = serde_json::from_slice(&client.exchange(&engine.get("/v1/models")).await?)?;
    assert_eq!(models["data"][0]["id"], "bench");
    assert_eq!(client.exchange(&engine.get("/health")).await?, b"");
    Ok(())
}

#[tokio::test]
async fn a_stream_of_another_length_than_expected_is_an_error() -> Result<(), Fault> {
    let engine = engine().await?;
    let request = engine.chat(true, &json!({"events": 3}));
    assert!(Client::connect(engine.address).await?.stream(&request, 4).await.is_err());
    let wrong = engine.get("/nothing");
    assert!(Client::connect(engine.address).await?.unary(&wrong).await.is_err());
    Ok(())
}

#[tokio::test]
async fn every_departure_is_noticed_at_once() -> Result<(), Fault> {
    let engine = engine().await?;
    for phase in Phase::ALL {
        let noticed_ms = leave(&engine, engine.address, phase, &format!("{phase:?}")).await?;
        assert!(noticed_ms < NEVER.as_secs_f64() * 1e3, "{phase:?}: {noticed_ms} ms");
    }
    Ok(())
}

#[tokio::test]
async fn a_pace_is_kept_from_the_start_and_not_from_write_to_write() -> Result<(), Fault> {
    let engine = engine().await?;
    let request = engine.chat(true, &json!({"events": 20, "delay_us": 5000}));
    let (sent, events) = Client::connect(engine.address).await?.stream(&request, 20).await?;
    let took = sent.elapsed();
    assert!(took >= Duration::from_millis(100), "{took:?}");
    assert_eq!(events.contents, 20);
    // A pause of 5 ms after each write would add each write's time and the timer's rounding.
    assert!(took < Duration::from_millis(150), "{took:?}");
    Ok(())
}

#[tokio::test]
async fn the_ledger_counts_who_is_present_and_who_has_left() -> Result<(), Fault> {
    let engine = engine().await?;
    let mut ledger = Ledger::of(engine.address).await?;
    let request = engine.chat(true, &json!({"hang": "after_first"}));
    let mut silent = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(engine.address).await?;
        client.stream_to_first(&request).await?;
        silent.push(client);
    }
    assert_eq!(ledger.present().await?, 3);
    silent.pop();
    assert_eq!(ledger.until_present(2, NEVER).await?, 0);
    assert_eq!(ledger.until_present(0, Duration::from_millis(20)).await?, 2);
    silent.clear();
    assert_eq!(ledger.until_present(0, NEVER).await?, 0);
    Ok(())
}
