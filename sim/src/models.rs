//! Owns what `/v1/models` lists.
//!
//! Must never decide which names are served.

use serde_json::{Value, json};

use crate::ids;
use crate::options::Options;

/// The list, as JSON.
pub(crate) fn list(options: &Options) -> Value {
    let created = ids::now();
    let model = |name: &String| {
        json!({
            "id": name, "object": "model", "created": created, "owned_by": "vllm",
            "root": options.root, "parent": null, "max_model_len": options.max_model_len,
            "permission": [{
                "id": ids::random_id("modelperm-"), "object": "model_permission",
                "created": created, "allow_create_engine": false, "allow_sampling": true,
                "allow_logprobs": true, "allow_search_indices": false, "allow_view": true,
                "allow_fine_tuning": false, "organization": "*", "group": null,
                "is_blocking": false,
            }],
        })
    };
    let data: Vec<Value> = match &options.wrong_id {
        Some(wrong) => vec![model(wrong)],
        None => options.served.iter().map(model).collect(),
    };
    json!({"object": "list", "data": data})
}
