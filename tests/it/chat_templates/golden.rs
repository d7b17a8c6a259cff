//! Prompts as the formats' documents have them, written by hand from the pages named at each.
//!
//! Only the sentences that tell a model about its functions are this project's own.

use serde_json::{Value, json};

/// The one function that conversations about tools offer.
macro_rules! tool {
    () => {
        concat!(
            r#"{"type": "function", "function": {"name": "get_weather", "#,
            r#""description": "Tells the weather, as in <Orléans>.", "#,
            r#""parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}"#
        )
    };
}

/// How functions are told to models that have no tokens for them.
macro_rules! plain_tools {
    () => {
        concat!(
            "These functions can be called. To call one, answer with nothing but a JSON object:\n",
            r#"{"name": <name of the function>, "parameters": <object with its arguments>}"#,
            "\n\n",
            tool!()
        )
    };
}

pub const TOOL: &str = tool!();

/// What a template makes of the conversations that all of them are shown.
pub struct Prompts {
    pub template: &'static str,
    /// One question.
    pub bare: &'static str,
    /// One question behind a system and a developer message.
    pub told: &'static str,
    /// Two questions and an answer.
    pub talk: &'static str,
    /// A system message, a function, two calls of it and what they brought.
    pub tools: &'static str,
    /// Texts and two pictures in one message.
    pub parts: &'static str,
    /// A question with its answer, and no prompt for another one.
    pub off: &'static str,
    /// An answer that says something and makes two calls, which need no arguments.
    pub looks: &'static str,
}

/// What is rendered, and the prompt that must come of it.
pub struct Golden {
    pub template: &'static str,
    pub about: &'static str,
    pub given: Value,
    pub prompt: &'static str,
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

/// A call as OpenAI's API has it; `arguments` may be the JSON text or the object.
fn call(id: &str, arguments: &Value) -> Value {
    let function = json!({"name": "get_weather", "arguments": arguments});
    json!({"id": id, "type": "function", "function": function})
}

fn tool() -> Value {
    serde_json::from_str(TOOL).expect("the function is JSON")
}

fn asked(messages: &[Value]) -> Value {
    json!({"messages": messages, "add_generation_prompt": true})
}

fn tools() -> Value {
    let calls = [
        call("call_aB3dE5gH7", &json!(r#"{"city": "Paris"}"#)),
        call("K1m2N3p4Q", &json!({"city": "Rome"})),
    ];
    json!({
        "messages": [
            {"role": "system", "content": "You are brief."},
            user("What is the weather in Paris and in Rome?"),
            {"role": "assistant", "content": null, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call_aB3dE5gH7", "content": r#"{"degrees": 18}"#},
            {"role": "tool", "tool_call_id": "K1m2N3p4Q", "content": "Sunny"},
        ],
        "tools": [tool()],
        "add_generation_prompt": true,
    })
}

fn parts() -> Value {
    let content = json!([
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}},
        {"type": "text", "text": "What is it?"},
        {"type": "image"},
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": "Be kind."},
    ]);
    asked(&[json!({"role": "user", "content": content})])
}

/// The whole table.
pub fn golden() -> Vec<Golden> {
    let capital = user("What is the capital of France?");
    let system = json!({"role": "system", "content": "You are brief."});
    let bare = asked(std::slice::from_ref(&capital));
    let developer = json!({"role": "developer", "content": "You are kind."});
    let told = asked(&[system, developer, capital.clone()]);
    let talk = asked(&[
        user("Hello, how are you?"),
        assistant("Fine, and you?"),
        user("I'm doing great!"),
    ]);
    let off = json!({"messages": [capital, assistant("Paris.")], "add_generation_prompt": false});
    let empty = [call("K1m2N3p4Q", &Value::Null), call("K1m2N3p4R", &json!(""))];
    let looks = json!({"role": "assistant", "content": "I look.", "tool_calls": empty});
    let looks = json!({"messages": [user("Is it sunny?"), looks], "add_generation_prompt": false});
    let mut all = Vec::new();
    for shown in PROMPTS {
        let row = |about, given: &Value, prompt| Golden {
            template: shown.template,
            about,
            given: given.clone(),
            prompt,
        };
        all.extend([
            row("bare", &bare, shown.bare),
            row("told", &told, shown.told),
            row("talk", &talk, shown.talk),
            row("tools", &tools(), shown.tools),
            row("parts", &parts(), shown.parts),
            row("off", &off, shown.off),
            row("looks", &looks, shown.looks),
        ]);
    }
    all.extend(thoughts());
    all.extend(habits());
    all
}

pub const PROMPTS: [Prompts; 7] = [CHATML, LLAMA3, MISTRAL, GEMMA, VICUNA, LLAVA, DEEPSEEK];

// Turns: https://qwen.readthedocs.io/en/latest/getting_started/concepts.html.
// Tools: https://qwen.readthedocs.io/en/latest/framework/function_call.html.
// Pictures: https://huggingface.co/docs/transformers/model_doc/qwen2_vl.
const CHATML: Prompts = Prompts {
    template: "chatml.jinja",
    bare: "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    told: "<|im_start|>system\nYou are brief.\n\nYou are kind.<|im_end|>\n\
        <|im_start|>user\nWhat is the capital of France?<|im_end|>\n\
        <|im_start|>assistant\n",
    talk: "<|im_start|>user\nHello, how are you?<|im_end|>\n\
        <|im_start|>assistant\nFine, and you?<|im_end|>\n\
        <|im_start|>user\nI'm doing great!<|im_end|>\n\
        <|im_start|>assistant\n",
    tools: concat!(
        "<|im_start|>system\nYou are brief.\n\n",
        "# Tools\n\nThese functions can be called to help the user:\n",
        "<tools>\n",
        tool!(),
        "\n</tools>\n\nWrite each call as a JSON object between <tool_call> tags:\n<tool_call>\n",
        r#"{"name": <name of the function>, "arguments": <object with its arguments>}"#,
        "\n</tool_call><|im_end|>\n",
        "<|im_start|>user\nWhat is the weather in Paris and in Rome?<|im_end|>\n",
        "<|im_start|>assistant\n<tool_call>\n",
        r#"{"name": "get_weather", "arguments": {"city": "Paris"}}"#,
        "\n</tool_call>\n<tool_call>\n",
        r#"{"name": "get_weather", "arguments": {"city": "Rome"}}"#,
        "\n</tool_call><|im_end|>\n",
        "<|im_start|>user\n<tool_response>\n{\"degrees\": 18}\n</tool_response>\n",
        "<tool_response>\nSunny\n</tool_response><|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    parts: "<|im_start|>user\nLook:<|vision_start|><|image_pad|><|vision_end|>What is it?\
        <|vision_start|><|image_pad|><|vision_end|>Be brief.\nBe kind.<|im_end|>\n\
        <|im_start|>assistant\n",
    off: "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n\
        <|im_start|>assistant\nParis.<|im_end|>\n",
    looks: "<|im_start|>user\nIs it sunny?<|im_end|>\n\
        <|im_start|>assistant\nI look.\n\
        <tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call>\n\
        <tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call><|im_end|>\n",
};

// Turns and tools: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/.
// Functions in the system turn, pictures:
// https://github.com/meta-llama/llama-models/tree/main/models/llama3_2.
const LLAMA3: Prompts = Prompts {
    template: "llama3.jinja",
    bare: "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n\
        What is the capital of France?<|eot_id|>\
        <|start_header_id|>assistant<|end_header_id|>\n\n",
    told: "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n\
        You are brief.\n\nYou are kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n\
        What is the capital of France?<|eot_id|>\
        <|start_header_id|>assistant<|end_header_id|>\n\n",
    talk: "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n\
        Hello, how are you?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n\
        Fine, and you?<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n\
        I'm doing great!<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    tools: concat!(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are brief.\n\n",
        plain_tools!(),
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
        "What is the weather in Paris and in Rome?<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        r#"{"name": "get_weather", "parameters": {"city": "Paris"}}; "#,
        r#"{"name": "get_weather", "parameters": {"city": "Rome"}}<|eot_id|>"#,
        "<|start_header_id|>ipython<|end_header_id|>\n\n{\"degrees\": 18}<|eot_id|>",
        "<|start_header_id|>ipython<|end_header_id|>\n\nSunny<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    parts: "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n\
        Look:<|image|>What is it?<|image|>Be brief.\nBe kind.<|eot_id|>\
        <|start_header_id|>assistant<|end_header_id|>\n\n",
    off: "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n\
        What is the capital of France?<|eot_id|>\
        <|start_header_id|>assistant<|end_header_id|>\n\nParis.<|eot_id|>",
    looks: "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n\
        Is it sunny?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nI look.\n\
        {\"name\": \"get_weather\", \"parameters\": {}}; \
        {\"name\": \"get_weather\", \"parameters\": {}}<|eot_id|>",
};

// Turns: https://docs.mistral.ai/cookbook/concept-deep-dive-tokenization-templates ("V2/V3").
// Tools: https://docs.mistral.ai/cookbook/concept-deep-dive-tokenization-tool_calling ("V3").
const MISTRAL: Prompts = Prompts {
    template: "mistral.jinja",
    bare: "<s>[INST] What is the capital of France?[/INST]",
    told: "<s>[INST] You are brief.\n\nYou are kind.\n\nWhat is the capital of France?[/INST]",
    talk: "<s>[INST] Hello, how are you?[/INST] Fine, and you?</s>[INST] I'm doing great![/INST]",
    tools: concat!(
        "<s>[AVAILABLE_TOOLS] [",
        tool!(),
        "][/AVAILABLE_TOOLS][INST] You are brief.\n\n",
        "What is the weather in Paris and in Rome?[/INST]",
        "[TOOL_CALLS] [",
        r#"{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "aB3dE5gH7"}, "#,
        r#"{"name": "get_weather", "arguments": {"city": "Rome"}, "id": "K1m2N3p4Q"}]</s>"#,
        r#"[TOOL_RESULTS] {"content": {"degrees": 18}, "call_id": "aB3dE5gH7"}[/TOOL_RESULTS]"#,
        r#"[TOOL_RESULTS] {"content": "Sunny", "call_id": "K1m2N3p4Q"}[/TOOL_RESULTS]"#,
    ),
    parts: "<s>[INST] Look:\nWhat is it?\nBe brief.\nBe kind.[/INST]",
    off: "<s>[INST] What is the capital of France?[/INST] Paris.</s>",
    looks: "<s>[INST] Is it sunny?[/INST] I look.[TOOL_CALLS] [\
        {\"name\": \"get_weather\", \"arguments\": {}, \"id\": \"K1m2N3p4Q\"}, \
        {\"name\": \"get_weather\", \"arguments\": {}, \"id\": \"K1m2N3p4R\"}]</s>",
};

// Turns: https://ai.google.dev/gemma/docs/core/prompt-structure.
// Tools have no form of their own: https://ai.google.dev/gemma/docs/capabilities/function-calling.
// Pictures: https://huggingface.co/docs/transformers/model_doc/gemma3.
const GEMMA: Prompts = Prompts {
    template: "gemma.jinja",
    bare: "<bos><start_of_turn>user\nWhat is the capital of France?<end_of_turn>\n\
        <start_of_turn>model\n",
    told: "<bos><start_of_turn>user\nYou are brief.\n\nYou are kind.\n\n\
        What is the capital of France?<end_of_turn>\n\
        <start_of_turn>model\n",
    talk: "<bos><start_of_turn>user\nHello, how are you?<end_of_turn>\n\
        <start_of_turn>model\nFine, and you?<end_of_turn>\n\
        <start_of_turn>user\nI'm doing great!<end_of_turn>\n\
        <start_of_turn>model\n",
    tools: concat!(
        "<bos><start_of_turn>user\nYou are brief.\n\n",
        plain_tools!(),
        "\n\nWhat is the weather in Paris and in Rome?<end_of_turn>\n<start_of_turn>model\n",
        r#"{"name": "get_weather", "parameters": {"city": "Paris"}}; "#,
        r#"{"name": "get_weather", "parameters": {"city": "Rome"}}"#,
        "<end_of_turn>\n<start_of_turn>user\n",
        "<tool_response>\n{\"degrees\": 18}\n</tool_response>\n\n",
        "<tool_response>\nSunny\n</tool_response><end_of_turn>\n<start_of_turn>model\n",
    ),
    parts: "<bos><start_of_turn>user\n\
        Look:<start_of_image>What is it?<start_of_image>Be brief.\nBe kind.<end_of_turn>\n\
        <start_of_turn>model\n",
    off: "<bos><start_of_turn>user\nWhat is the capital of France?<end_of_turn>\n\
        <start_of_turn>model\nParis.<end_of_turn>\n",
    looks: "<bos><start_of_turn>user\nIs it sunny?<end_of_turn>\n\
        <start_of_turn>model\nI look.\n\
        {\"name\": \"get_weather\", \"parameters\": {}}; \
        {\"name\": \"get_weather\", \"parameters\": {}}<end_of_turn>\n",
};

// https://github.com/lm-sys/FastChat/blob/main/docs/vicuna_weights_version.md and `vicuna_v1.1` in
// https://github.com/lm-sys/FastChat/blob/main/fastchat/conversation.py.
const VICUNA: Prompts = Prompts {
    template: "vicuna.jinja",
    bare: "<s>USER: What is the capital of France? ASSISTANT:",
    told: "<s>You are brief.\n\nYou are kind. USER: What is the capital of France? ASSISTANT:",
    talk: "<s>USER: Hello, how are you? ASSISTANT: Fine, and you?</s>\
        USER: I'm doing great! ASSISTANT:",
    tools: concat!(
        "<s>You are brief.\n\n",
        plain_tools!(),
        " USER: What is the weather in Paris and in Rome? ASSISTANT: ",
        r#"{"name": "get_weather", "parameters": {"city": "Paris"}}; "#,
        r#"{"name": "get_weather", "parameters": {"city": "Rome"}}</s>"#,
        "USER: <tool_response>\n{\"degrees\": 18}\n</tool_response> ",
        "USER: <tool_response>\nSunny\n</tool_response> ASSISTANT:",
    ),
    parts: "<s>USER: Look:\nWhat is it?\nBe brief.\nBe kind. ASSISTANT:",
    off: "<s>USER: What is the capital of France? ASSISTANT: Paris.</s>",
    looks: "<s>USER: Is it sunny? ASSISTANT: I look.\n\
        {\"name\": \"get_weather\", \"parameters\": {}}; \
        {\"name\": \"get_weather\", \"parameters\": {}}</s>",
};

// https://huggingface.co/docs/transformers/model_doc/llava (the prompts of LLaVA 1.5, to which the
// tokenizer adds the first token).
const LLAVA: Prompts = Prompts {
    template: "llava.jinja",
    parts: "<s>USER: <image>\n<image>\nLook:\nWhat is it?\nBe brief.\nBe kind. ASSISTANT:",
    ..VICUNA
};

// https://huggingface.co/deepseek-ai/DeepSeek-V2.5-1210 (turns, system message, and at "Function
// calling" calls and results, behind which the answer follows at once).
const DEEPSEEK: Prompts = Prompts {
    template: "deepseek.jinja",
    bare: "<｜begin▁of▁sentence｜><｜User｜>What is the capital of France?<｜Assistant｜>",
    told: "<｜begin▁of▁sentence｜>You are brief.\n\nYou are kind.\
        <｜User｜>What is the capital of France?<｜Assistant｜>",
    talk: "<｜begin▁of▁sentence｜><｜User｜>Hello, how are you?\
        <｜Assistant｜>Fine, and you?<｜end▁of▁sentence｜>\
        <｜User｜>I'm doing great!<｜Assistant｜>",
    tools: concat!(
        "<｜begin▁of▁sentence｜>You are brief.\n\n## Tools\n\nThese functions can be called:\n",
        tool!(),
        "\n\nTo call some, end the answer in this form, with one block for each call:\n",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>name of the function\n",
        "```json\n{\"name of the argument\": \"its value\"}\n```",
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "<｜User｜>What is the weather in Paris and in Rome?<｜Assistant｜>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n",
        "```json\n{\"city\": \"Paris\"}\n```<｜tool▁call▁end｜>\n",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n",
        "```json\n{\"city\": \"Rome\"}\n```<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
        "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>{\"degrees\": 18}<｜tool▁output▁end｜>\n",
        "<｜tool▁output▁begin｜>Sunny<｜tool▁output▁end｜><｜tool▁outputs▁end｜>",
    ),
    parts: "<｜begin▁of▁sentence｜><｜User｜>Look:\nWhat is it?\nBe brief.\nBe kind.<｜Assistant｜>",
    off: "<｜begin▁of▁sentence｜><｜User｜>What is the capital of France?\
        <｜Assistant｜>Paris.<｜end▁of▁sentence｜>",
    looks: "<｜begin▁of▁sentence｜><｜User｜>Is it sunny?<｜Assistant｜>I look.\
        <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n\
        ```json\n{}\n```<｜tool▁call▁end｜>\n\
        <｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n\
        ```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
};

/// What reasoning models have thought, and whether they shall think.
///
/// <https://huggingface.co/Qwen/Qwen3-8B> ("No Thinking Content in History", `enable_thinking`) and
/// <https://huggingface.co/deepseek-ai/DeepSeek-R1> ("Usage Recommendations").
fn thoughts() -> [Golden; 4] {
    let earlier = assistant("<think>\nFour?\n</think>\n\nFour.");
    let mut off = asked(&[user("2+2?"), earlier.clone(), user("3+3?")]);
    let mut on = off.clone();
    off["enable_thinking"] = json!(false);
    on["enable_thinking"] = json!(true);
    let looks_up = json!({
        "role": "assistant", "content": null, "reasoning_content": "I look it up.\n",
        "tool_calls": [call("K1m2N3p4Q", &json!({"city": "Rome"}))],
    });
    let result = json!({"role": "tool", "tool_call_id": "K1m2N3p4Q", "content": "Sunny"});
    let sunny = [user("Is it sunny?"), looks_up, result, assistant("Yes.")];
    let at_work = asked(&[&[user("2+2?"), earlier], &sunny[..3]].concat());
    let answered = asked(&sunny);
    [
        Golden {
            template: "chatml.jinja",
            about: "thoughts of earlier answers are left out, new ones can be turned off",
            given: off,
            prompt: "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\nFour.<|im_end|>\n\
                <|im_start|>user\n3+3?<|im_end|>\n\
                <|im_start|>assistant\n<think>\n\n</think>\n\n",
        },
        Golden {
            template: "chatml.jinja",
            about: "thoughts about the question that is being answered stay",
            given: at_work,
            prompt: "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\nFour.<|im_end|>\n\
                <|im_start|>user\nIs it sunny?<|im_end|>\n\
                <|im_start|>assistant\n<think>\nI look it up.\n</think>\n\n<tool_call>\n\
                {\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\"}}\n\
                </tool_call><|im_end|>\n\
                <|im_start|>user\n<tool_response>\nSunny\n</tool_response><|im_end|>\n\
                <|im_start|>assistant\n",
        },
        Golden {
            template: "deepseek.jinja",
            about: "thoughts of earlier answers are left out, new ones can be asked for",
            given: on,
            prompt: "<｜begin▁of▁sentence｜><｜User｜>2+2?<｜Assistant｜>\n\nFour.<｜end▁of▁sentence｜>\
                <｜User｜>3+3?<｜Assistant｜><think>\n",
        },
        Golden {
            template: "deepseek.jinja",
            about: "an answer follows the results of tools without a token of its own",
            given: answered,
            prompt: concat!(
                "<｜begin▁of▁sentence｜><｜User｜>Is it sunny?<｜Assistant｜>",
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n",
                "```json\n{\"city\": \"Rome\"}\n```<｜tool▁call▁end｜>",
                "<｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
                "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>Sunny<｜tool▁output▁end｜>",
                "<｜tool▁outputs▁end｜>Yes.<｜end▁of▁sentence｜><｜Assistant｜>",
            ),
        },
    ]
}

/// Where system messages stand that are not at the beginning, and other habits of the formats.
fn habits() -> [Golden; 6] {
    let messages = [
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "developer", "content": "Be kind."}),
        user("Hello!"),
        assistant("Hi."),
        json!({"role": "system", "content": "Be quick."}),
        user("What's 2+2?"),
    ];
    let mut with_tool = asked(&messages);
    with_tool["tools"] = json!([tool()]);
    let number = asked(&[
        user("What's 2+2?"),
        json!({"role": "tool", "tool_call_id": "VvvODy9mT", "content": "4"}),
        assistant("2+2=4"),
    ]);
    [
        Golden {
            template: "mistral.jinja",
            about: "system messages and functions stand at the user's last turn",
            given: with_tool,
            prompt: concat!(
                "<s>[INST] Hello![/INST] Hi.</s>[AVAILABLE_TOOLS] [",
                tool!(),
                "][/AVAILABLE_TOOLS]",
                "[INST] Be brief.\n\nBe kind.\n\nBe quick.\n\nWhat's 2+2?[/INST]",
            ),
        },
        Golden {
            template: "mistral.jinja",
            about: "a result that is a number stays one",
            given: number,
            prompt: "<s>[INST] What's 2+2?[/INST]\
                [TOOL_RESULTS] {\"content\": 4, \"call_id\": \"VvvODy9mT\"}[/TOOL_RESULTS]\
                \u{20}2+2=4</s>",
        },
        Golden {
            template: "mistral.jinja",
            about: "where no user speaks and nothing is to be told there is no turn of the user's",
            given: asked(&[assistant("Hi.")]),
            prompt: "<s> Hi.</s>",
        },
        Golden {
            template: "mistral.jinja",
            about: "messages of the user in a row are one turn",
            given: asked(&[
                assistant("Hi."),
                user("One"),
                user("Two"),
                assistant("Three"),
                user("4"),
            ]),
            prompt: "<s> Hi.</s>[INST] One\n\nTwo[/INST] Three</s>[INST] 4[/INST]",
        },
        Golden {
            template: "chatml.jinja",
            about: "system messages at the beginning are one, later ones keep their place",
            given: asked(&messages),
            prompt: "<|im_start|>system\nBe brief.\n\nBe kind.<|im_end|>\n\
                <|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n\
                <|im_start|>system\nBe quick.<|im_end|>\n<|im_start|>user\nWhat's 2+2?<|im_end|>\n\
                <|im_start|>assistant\n",
        },
        Golden {
            template: "gemma.jinja",
            about: "system messages begin the first turn, wherever they stand",
            given: asked(&messages),
            prompt: "<bos><start_of_turn>user\nBe brief.\n\nBe kind.\n\nBe quick.\n\n\
                Hello!<end_of_turn>\n<start_of_turn>model\nHi.<end_of_turn>\n\
                <start_of_turn>user\nWhat's 2+2?<end_of_turn>\n\
                <start_of_turn>model\n",
        },
    ]
}
