//! The splitter against a table, and against a search that sees the whole text at once.

use proptest::prelude::*;

use super::*;

/// What is answered and what is thought, in their order; marks gone.
fn read(cuts: &[&str], opener: Opener) -> Vec<(char, String)> {
    let mut parts = Vec::new();
    let mut splitter = ThinkSplitter::new(opener);
    for cut in cuts {
        splitter.push(cut, &mut parts);
    }
    splitter.finish(&mut parts);
    settled(parts)
}

/// Unsure parts as what they turned out to be, equal neighbours joined.
fn settled(parts: Vec<Part>) -> Vec<(char, String)> {
    let verdict = parts.iter().find_map(|part| match part {
        Part::Settled(thought) => Some(*thought),
        _ => None,
    });
    let mut all: Vec<(char, String)> = Vec::new();
    for part in parts {
        let (kind, text) = match part {
            Part::Answer(text) => ('a', text),
            Part::Thought(text) => ('t', text),
            Part::Mark(text) => ('m', text),
            Part::Unsure(text) => (if verdict == Some(true) { 't' } else { 'a' }, text),
            Part::Settled(_) => continue,
        };
        match all.last_mut() {
            Some((last, before)) if *last == kind => before.push_str(&text),
            _ => all.push((kind, text)),
        }
    }
    all
}

fn without_marks(text: &str, opener: Opener) -> Vec<(char, String)> {
    read(&[text], opener).into_iter().filter(|(kind, _)| *kind != 'm').collect()
}

/// A text, who may have opened its thoughts, and what it comes to.
type Row = (&'static str, &'static [Opener], &'static [(char, &'static str)]);

#[test]
fn thoughts_are_told_by_their_tags() {
    use Opener::{Model, Prompt, Unknown};
    let every: &[Opener] = &[Unknown, Prompt, Model];
    let rows: &[Row] = &[
        ("<think>a</think>b", every, &[('t', "a"), ('a', "b")]),
        ("<think>\na\n</think>\n\nb", every, &[('t', "a"), ('a', "\nb")]),
        ("<think>\r\na\r\n</think>\r\nb", every, &[('t', "a"), ('a', "b")]),
        ("<think>\n\na\n\n</think>b", every, &[('t', "\na\n"), ('a', "b")]),
        (" \n<think>a</think>", every, &[('t', "a")]),
        ("<think>\n\n</think>\n\nb", every, &[('a', "\nb")]),
        ("<think></think>b", every, &[('a', "b")]),
        // Cut off by max_tokens: a thought all the same.
        ("<think>a", every, &[('t', "a")]),
        ("<think>a</thin", every, &[('t', "a</thin")]),
        ("<think>a < b <think> c</think>d", every, &[('t', "a < b <think> c"), ('a', "d")]),
        // Nothing opened it.
        ("a\n</think>\nb", &[Unknown, Prompt], &[('t', "a"), ('a', "b")]),
        ("a</think>b", &[Model], &[('a', "a</think>b")]),
        ("a", &[Unknown, Model], &[('a', "a")]),
        ("a", &[Prompt], &[('t', "a")]),
        ("\na</think>b", &[Prompt], &[('t', "a"), ('a', "b")]),
        ("</think>\nb", &[Unknown, Prompt], &[('a', "b")]),
        // In the midst of the text.
        ("a <think>b</think> c", &[Unknown, Model], &[('a', "a "), ('t', "b"), ('a', " c")]),
        ("a\n<think>\nb\n</think>\nc", &[Unknown, Model], &[('a', "a\n"), ('t', "b"), ('a', "c")]),
        ("a <think>b", &[Unknown, Model], &[('a', "a <think>b")]),
        (
            "<think>a</think>b<think>c</think>d",
            every,
            &[('t', "a"), ('a', "b"), ('t', "c"), ('a', "d")],
        ),
        ("<think>a</think>b</think>c", every, &[('t', "a"), ('a', "b</think>c")]),
        // Somebody speaks of tags.
        (
            "use `<think>` and `</think>`",
            &[Unknown, Model],
            &[('a', "use `<think>` and `</think>`")],
        ),
        ("a \"</think>\" b", &[Unknown], &[('a', "a \"</think>\" b")]),
        ("<thinking>a</thinking>", &[Unknown, Model], &[('a', "<thinking>a</thinking>")]),
        ("", every, &[]),
        ("  ", &[Unknown, Model], &[('a', "  ")]),
    ];
    for (text, openers, want) in rows {
        for opener in *openers {
            let want: Vec<_> =
                want.iter().map(|(kind, text)| (*kind, (*text).to_owned())).collect();
            assert_eq!(without_marks(text, *opener), want, "{text:?} {opener:?}");
        }
    }
}

#[test]
fn text_leaves_as_soon_as_it_can_be_no_tag() {
    let mut splitter = ThinkSplitter::new(Opener::Model);
    for (came, left) in [
        ("a", Some("a")),
        (" < b", Some(" < b")),
        (" <thi", Some(" ")),
        ("s>", Some("<this>")),
        ("\n", Some("\n")),
    ] {
        let mut parts = Vec::new();
        splitter.push(came, &mut parts);
        let want: Vec<_> = left.map(|text| Part::Answer(text.to_owned())).into_iter().collect();
        assert_eq!(parts, want, "{came:?}");
    }
    let mut parts = Vec::new();
    let mut splitter = ThinkSplitter::new(Opener::Unknown);
    splitter.push("<think>a\nb", &mut parts);
    assert_eq!(parts[1..], [Part::Thought("a\nb".to_owned())]);
}

#[test]
fn an_engine_that_tells_thoughts_itself_settles_the_question() {
    let (mut parts, mut splitter) = (Vec::new(), ThinkSplitter::new(Opener::Unknown));
    splitter.push(" a", &mut parts);
    splitter.leave_to_the_engine(&mut parts);
    splitter.push("b</think>", &mut parts);
    splitter.finish(&mut parts);
    assert_eq!(settled(parts), [('a', " ab</think>".to_owned())]);
}

#[test]
fn what_stays_unsure_for_too_long_is_text_wherever_it_is_cut() {
    let long = "é".repeat(MAX_UNSURE / 2);
    for text in
        [format!("{long}</think>b"), format!("a<think>{long}</think>b"), format!("a{long}</think>")]
    {
        let whole = read(&[&text], Opener::Unknown);
        assert_eq!(whole, [('a', text.clone())]);
        let cut = text.len() - "</think>b".len() + 3;
        assert_eq!(read(&[&text[..cut], &text[cut..]], Opener::Unknown), whole);
    }
    let short = "e".repeat(MAX_UNSURE - "</think>".len());
    let text = format!("{short}</think>b");
    assert_eq!(without_marks(&text, Opener::Unknown), [('t', short), ('a', "b".to_owned())]);
}

/// The law, read off a whole text.
fn reference(text: &str, opener: Opener) -> Vec<(char, String)> {
    let (open, close) = ("<think>", "</think>");
    let mut parts = Vec::new();
    let begun = text.trim_ascii_start();
    let rest = if let Some(rest) = begun.strip_prefix(open) {
        parts.push(('m', text[..text.len() - rest.len()].to_owned()));
        first_thought(rest, &mut parts)
    } else if opener == Opener::Prompt && !begun.is_empty() {
        first_thought(text, &mut parts)
    } else {
        let ends = place(text, close, b'\n').filter(|at| {
            opener == Opener::Unknown && place(text, open, b'\n').is_none_or(|opens| opens > *at)
        });
        match ends {
            Some(at) => closed(&text[..at], &text[at + close.len()..], &mut parts),
            None => text,
        }
    };
    later_thoughts(
        rest,
        if rest.len() == text.len() { b'\n' } else { last(text, rest) },
        &mut parts,
    );
    joined(parts)
}

fn last(text: &str, rest: &str) -> u8 {
    text.as_bytes()[text.len() - rest.len() - 1]
}

fn place(text: &str, tag: &str, before: u8) -> Option<usize> {
    text.match_indices(tag).map(|(at, _)| at).find(|at| {
        let behind = at.checked_sub(1).map_or(before, |at| text.as_bytes()[at]);
        !matches!(behind, b'`' | b'"' | b'\'')
    })
}

fn first_thought<'a>(text: &'a str, parts: &mut Vec<(char, String)>) -> &'a str {
    let body = text.strip_prefix("\r\n").or(text.strip_prefix('\n')).unwrap_or(text);
    parts.push(('m', text[..text.len() - body.len()].to_owned()));
    if let Some((thought, rest)) = body.split_once("</think>") {
        return closed(thought, rest, parts);
    }
    parts.push(('t', body.to_owned()));
    ""
}

fn closed<'a>(thought: &str, rest: &'a str, parts: &mut Vec<(char, String)>) -> &'a str {
    let inner = thought.strip_suffix("\r\n").or(thought.strip_suffix('\n')).unwrap_or(thought);
    let behind = rest.strip_prefix("\r\n").or(rest.strip_prefix('\n')).unwrap_or(rest);
    let mark = [&thought[inner.len()..], "</think>", &rest[..rest.len() - behind.len()]].concat();
    parts.extend([('t', inner.to_owned()), ('m', mark)]);
    behind
}

fn later_thoughts(text: &str, before: u8, parts: &mut Vec<(char, String)>) {
    let Some(at) = place(text, "<think>", before) else {
        return parts.push(('a', text.to_owned()));
    };
    let body = &text[at + "<think>".len()..];
    let Some((thought, rest)) = body.split_once("</think>") else {
        return parts.push(('a', text.to_owned()));
    };
    let inner = thought.strip_prefix("\r\n").or(thought.strip_prefix('\n')).unwrap_or(thought);
    let mark = ["<think>", &thought[..thought.len() - inner.len()]].concat();
    parts.extend([('a', text[..at].to_owned()), ('m', mark)]);
    let rest = closed(inner, rest, parts);
    later_thoughts(rest, last(text, rest), parts);
}

fn joined(parts: Vec<(char, String)>) -> Vec<(char, String)> {
    let mut all: Vec<(char, String)> = Vec::new();
    for (kind, text) in parts.into_iter().filter(|(_, text)| !text.is_empty()) {
        match all.last_mut() {
            Some((last, before)) if *last == kind => before.push_str(&text),
            _ => all.push((kind, text)),
        }
    }
    all
}

fn texts() -> impl Strategy<Value = String> {
    let pieces = [
        "<think>", "</think>", "<think", "</", "<", "\n", "\r\n", "\r", " ", "a", "é", "`", "\"",
        ">", "think>",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..14).prop_map(|all| all.concat())
}

proptest! {
    #[test]
    fn every_cut_gives_what_the_whole_gives(text in texts(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        places.retain(|at| text.is_char_boundary(*at));
        places.extend([0, text.len()]);
        places.sort_unstable();
        let pieces: Vec<&str> = places.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect();
        let single: Vec<String> = text.chars().map(String::from).collect();
        let single: Vec<&str> = single.iter().map(String::as_str).collect();
        for opener in [Opener::Unknown, Opener::Prompt, Opener::Model] {
            let want = reference(&text, opener);
            for cut in [vec![text.as_str()], pieces.clone(), single.clone()] {
                let got = read(&cut, opener);
                prop_assert_eq!(&got, &want, "{:?} {:?}", text, opener);
                prop_assert_eq!(got.iter().map(|(_, text)| text.as_str()).collect::<String>(), text.clone());
            }
        }
    }
}
