//! A client of a tail.

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{Ask, Client};

pub const CHAT: &str = "/v1/logs/chat";

/// One that reads.
pub struct Tail {
    pub client: Client,
    text: String,
    at: usize,
    /// The id that came last.
    pub last: Option<String>,
}

/// What an event says that has data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Line(String),
    Gap,
}

impl Tail {
    /// From the last `lines` lines on.
    #[track_caller]
    pub fn new(addr: SocketAddr, path: &str, lines: usize) -> Self {
        Tail::open(addr, &Ask::get(&format!("{path}?follow=1&lines={lines}")))
    }

    /// Behind what was read last, if anything was; else as a new one that wants all.
    #[track_caller]
    pub fn again(addr: SocketAddr, path: &str, last: Option<&str>) -> Self {
        let ask = Ask::get(&format!("{path}?follow=1&lines=10000"));
        Tail::open(addr, &last.map_or(ask.clone(), |last| ask.header("last-event-id", last)))
    }

    #[track_caller]
    pub fn open(addr: SocketAddr, ask: &Ask) -> Self {
        Tail::of(ask.open(addr))
    }

    /// Over a connection on which the request was sent.
    #[track_caller]
    pub fn of(mut client: Client) -> Self {
        let head = client.head();
        assert_eq!((head.status, head.get("content-type")), (200, Some("text/event-stream")));
        let text = String::from_utf8(client.read_until("retry: 2000\n\n")).expect("text");
        let at = text.find("\n\n").expect("the greeting") + 2;
        Tail { client, text, at, last: None }
    }

    /// The next event that has data. `None`: the stream has ended, properly or not.
    pub fn next(&mut self) -> Option<Heard> {
        loop {
            let event = self.event()?;
            let mut heard = None;
            for line in event.lines() {
                match line.split_once(": ") {
                    Some(("id", id)) => self.last = Some(id.to_owned()),
                    Some(("data", data)) => heard = Some(Heard::Line(data.to_owned())),
                    Some(("event", "gap")) => {
                        assert_eq!(event, "event: gap\ndata: {\"type\":\"gap\"}");
                        return Some(Heard::Gap);
                    }
                    Some(("", _)) => {}
                    other => panic!("{other:?} in {event:?}"),
                }
            }
            if heard.is_some() {
                return heard;
            }
        }
    }

    fn event(&mut self) -> Option<String> {
        let mut from = self.at;
        loop {
            if let Some(end) = self.text[from..].find("\n\n") {
                let event = self.text[self.at..from + end].to_owned();
                self.at = from + end + 2;
                if self.at > 1 << 20 {
                    self.text.drain(..self.at);
                    self.at = 0;
                }
                return Some(event);
            }
            from = self.text.len().saturating_sub(1).max(self.at);
            let piece = self.client.piece().ok().flatten()?;
            self.text.push_str(&String::from_utf8(piece.data).expect("text"));
        }
    }

    /// The next line.
    #[track_caller]
    pub fn line(&mut self) -> String {
        match self.next() {
            Some(Heard::Line(line)) => line,
            other => panic!("{other:?} is no line"),
        }
    }

    /// So many of them.
    #[track_caller]
    pub fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    /// The request that the next line is about.
    #[track_caller]
    pub fn request(&mut self) -> String {
        request_of(&self.line())
    }
}

pub fn request_of(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:.200}"));
    line["request_id"].as_str().expect("an id").to_owned()
}
