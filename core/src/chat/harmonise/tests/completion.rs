//! A way to make a call of what a scanner holds, if there is one: for the law that nothing else is
//! held.

use super::super::grammar::Piece;
use super::super::scanner::TextScanner;

/// Words that may have been begun: their ends are tried first.
const WORDS: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "<function=run>",
    "<function=runner>",
    "</function>",
    "<function=get_weather>",
    "<function=für>",
    "<parameter=a>",
    "</parameter>",
    "[TOOL_CALLS]",
    "run[ARGS]{}",
    "runner[ARGS]{}",
    "get_weather[ARGS]{}",
    "für[ARGS]{}",
    "json\n",
    "tool_call\n",
    r#""arguments":{}"#,
    r#""parameters":{}"#,
    r#""name":"run""#,
    r#""name":"runner""#,
    r#""name":"get_weather""#,
    r#""name":"für""#,
    r#""function":{"#,
    r#""type":1"#,
    r#""index":1"#,
    r#""id":1"#,
    "true",
    "false",
    "null",
    r#"\u0000""#,
    r#"\n""#,
    r#"x":1"#,
    "1.0e+1",
    "```",
    "```````",
];
/// What may then come, the ends before what makes the text longer.
const NEXT: &[&str] = &[
    "</parameter>",
    "</function>",
    "</tool_call>",
    "\n```",
    "}",
    "]",
    "{}",
    ":1",
    ":{}",
    r#":"run""#,
    r#""name":"run","arguments":{}"#,
    r#","name":"run","arguments":{}"#,
    r#"{"name":"run","arguments":{}}"#,
    r#""x":1"#,
    "1",
    "`",
];
/// So many tries for each end: inside a string nearly everything can come.
const TRIES: usize = 200;

/// Whether some text makes a call of what is held.
pub(super) fn can_be_completed(scanner: &TextScanner) -> bool {
    let ends = |word: &'static str| word.char_indices().map(move |(at, _)| &word[at..]);
    let mut begun = vec!["", "\""];
    begun.extend(WORDS.iter().copied().flat_map(ends));
    begun.into_iter().any(|end| match after(scanner, end) {
        After::Call => true,
        After::Dead => false,
        After::Held(scanner) => search(scanner),
    })
}

#[allow(clippy::large_enum_variant)] // it lives for a moment
enum After {
    Call,
    Held(TextScanner),
    Dead,
}

fn after(scanner: &TextScanner, text: &str) -> After {
    let (mut scanner, mut out) = (scanner.clone(), Vec::new());
    scanner.push(text, &mut out);
    let held = out.is_empty();
    scanner.clone().finish(&mut out);
    match out.iter().any(|piece| matches!(piece, Piece::Call { .. })) {
        true => After::Call,
        false if held => After::Held(scanner),
        false => After::Dead,
    }
}

fn search(scanner: TextScanner) -> bool {
    let mut stack = vec![(scanner, 0)];
    let mut tried = 0;
    while let Some((scanner, depth)) = stack.pop() {
        for next in NEXT.iter().rev() {
            tried += 1;
            match after(&scanner, next) {
                After::Call => return true,
                After::Held(scanner) if depth < 12 => stack.push((scanner, depth + 1)),
                After::Held(_) | After::Dead => {}
            }
        }
        if tried > TRIES {
            return false;
        }
    }
    false
}
