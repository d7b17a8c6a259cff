//! The engine and the generator's client, face to face. These tests must never need a peer.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::Fault;
use crate::client::{Client, chat, get};
use crate::departure::{NEVER, Phase, leave};

async fn engine() -> Result<SocketAddr, Fault> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(super::accept(listener));
    Ok(address)
}

#[tokio::test]
async fn one_connection_brings_answers_of_every_kind() -> Result<(), Fault> {
    let address = engine().await?;
    let mut client = Client::connect(address).await?;
    client.unary(&chat(address, false, &json!({}))).await?;
    for (events, per_write) in [(0, 1), (1, 1), (100, 16), (1600, 1), (300, 64)] {
        let bench = json!({"events": events, "per_write": per_write});
        client.stream(&chat(address, true, &bench), events).await?;
    }
    let models: Value =
        serde_json::from_slice(&client.exchange(&get(address, "/v1/models")).await?)?;
    assert_eq!(models["data"][0]["id"], "bench");
    assert_eq!(client.exchange(&get(address, "/health")).await?, b"");
    Ok(())
}

#[tokio::test]
async fn a_stream_of_another_length_than_expected_is_an_error() -> Result<(), Fault> {
    let address = engine().await?;
    let request = chat(address, true, &json!({"events": 3}));
    assert!(Client::connect(address).await?.stream(&request, 4).await.is_err());
    let wrong = get(address, "/nothing");
    assert!(Client::connect(address).await?.unary(&wrong).await.is_err());
    Ok(())
}

#[tokio::test]
async fn every_departure_is_noticed_at_once() -> Result<(), Fault> {
    let address = engine().await?;
    for phase in Phase::ALL {
        let noticed_ms = leave(address, address, phase, &format!("{phase:?}")).await?;
        assert!(noticed_ms < NEVER.as_secs_f64() * 1e3, "{phase:?}: {noticed_ms} ms");
    }
    Ok(())
}

#[tokio::test]
async fn a_pause_before_each_write_is_kept() -> Result<(), Fault> {
    let address = engine().await?;
    let request = chat(address, true, &json!({"events": 4, "delay_us": 5000}));
    let (sent, _) = Client::connect(address).await?.stream(&request, 4).await?;
    assert!(sent.elapsed().as_millis() >= 20);
    Ok(())
}
