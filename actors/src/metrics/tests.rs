#![allow(clippy::unwrap_used)]
use super::*;
use chat_proxy_core::telemetry::record::RecordError;

fn text(metrics: &Metrics) -> String {
    String::from_utf8(metrics.render(Scraped::default()).unwrap()).unwrap()
}

/// A streamed answer of ten tokens: the first after 4 ms, the others 2 ms apart.
fn streamed(model: &str) -> Record {
    Record {
        model_logical: Some(model.into()),
        backend: Some("vllm".into()),
        status: 200,
        duration_ms: 22,
        ttft_ms: Some(4),
        prompt_tokens: Some(3),
        completion_tokens: Some(10),
        tokens_per_second: Some(500.0),
        cost: Some(0.5),
        ..Record::default()
    }
}

fn series(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}

#[test]
fn figures_carry_the_projects_prefix_and_those_of_the_process_their_usual_names() {
    let metrics = Metrics::new().unwrap();
    metrics.registry_loads.with_label_values(&["good"]).inc();
    metrics.registry_models.set(3);
    metrics.log.written.inc();
    let text = text(&metrics);
    for line in [
        "imageworks_proxy_registry_loads_total{outcome=\"good\"} 1",
        "imageworks_proxy_registry_models 3",
        "imageworks_proxy_log_records_total{outcome=\"written\"} 1",
        "imageworks_proxy_log_records_total{outcome=\"dropped\"} 0",
        "imageworks_proxy_build_info{version=\"",
        "process_resident_memory_bytes ",
        "process_open_fds ",
    ] {
        assert!(text.lines().any(|is| is.starts_with(line)), "{line}\n{text}");
    }
}

#[test]
fn a_finished_request_is_counted_under_its_logical_names() {
    let metrics = Metrics::new().unwrap();
    let handle = MetricsHandle::new(metrics.clone(), None);
    handle.observe(&streamed("tiny-a"));
    let error = RecordError { code: "err_model_not_found".into(), message: String::new() };
    let bad = Record {
        model_requested: Some("<script>".into()),
        status: 404,
        error: Some(error),
        ..Record::default()
    };
    handle.observe(&bad);
    let text = text(&metrics);
    for line in [
        "requests_total{backend=\"vllm\",model=\"tiny-a\",status=\"200\"} 1",
        "requests_total{backend=\"other\",model=\"other\",status=\"404\"} 1",
        "errors_total{code=\"err_model_not_found\"} 1",
        "request_duration_seconds_sum{backend=\"vllm\",model=\"tiny-a\"} 0.022",
        "time_to_first_token_seconds_bucket{backend=\"vllm\",model=\"tiny-a\",le=\"0.005\"} 1",
        "inter_token_seconds_bucket{backend=\"vllm\",model=\"tiny-a\",le=\"0.001\"} 0",
        "inter_token_seconds_bucket{backend=\"vllm\",model=\"tiny-a\",le=\"0.0025\"} 1",
        "tokens_total{kind=\"completion\",model=\"tiny-a\"} 10",
        "tokens_total{kind=\"prompt\",model=\"tiny-a\"} 3",
        "cost_total{backend=\"vllm\",model=\"tiny-a\"} 0.5",
    ] {
        assert!(text.contains(&format!("imageworks_proxy_{line}\n")), "{line}\n{text}");
    }
    assert!(!text.contains("<script"));
    assert_eq!(metrics.requests_by_backend()["vllm"], 1);
    assert_eq!(metrics.errors_by_code()["err_model_not_found"], 1);
    assert!((metrics.cost_total() - 0.5).abs() < 1e-9);
}

#[test]
fn an_answer_in_one_piece_says_nothing_of_the_time_between_tokens() {
    let metrics = Metrics::new().unwrap();
    let handle = MetricsHandle::new(metrics.clone(), None);
    handle.observe(&Record { ttft_ms: None, ..streamed("a") });
    let text = text(&metrics);
    let count = "imageworks_proxy_inter_token_seconds_count{backend=\"vllm\",model=\"a\"} 0";
    assert!(text.contains(count), "{text}");
}

#[test]
fn requests_at_a_backend_are_counted_while_they_last() {
    let metrics = Metrics::new().unwrap();
    let handle = MetricsHandle::new(metrics.clone(), None);
    assert_eq!(metrics.in_flight_at("a"), 0);
    let one = handle.at_backend(Some("a"), Some("vllm"));
    let two = handle.at_backend(Some("a"), Some("openai")); // its entry was changed meanwhile
    let three = handle.at_backend(Some("b"), Some("openai"));
    assert_eq!((metrics.in_flight_at("a"), metrics.in_flight()), (2, 3));
    drop(three);
    drop((one, two));
    assert_eq!(metrics.in_flight_at("a"), 0);
}

#[test]
fn the_number_of_series_is_bounded_whatever_the_registry_brings() {
    let metrics = Metrics::new().unwrap();
    let handle = MetricsHandle::new(metrics.clone(), None);
    for number in 0..500 {
        handle.observe(&streamed(&format!("m{number}")));
    }
    let full = text(&metrics);
    for number in 500..2500 {
        handle.observe(&streamed(&format!("m{number}")));
        drop(handle.at_backend(Some(&format!("m{number}")), Some("vllm")));
    }
    let after = text(&metrics);
    // One each for requests and cost.
    assert_eq!(series(&after), series(&full) + 2);
    let other = "imageworks_proxy_requests_total{backend=\"other\",model=\"other\",status=\"200\"}";
    assert!(after.contains(&format!("{other} 2000\n")), "the rest is counted all the same");
}

#[test]
fn one_model_holds_the_gpu() {
    let metrics = Metrics::new().unwrap();
    metrics.holds_gpu(Some("a"));
    metrics.holds_gpu(Some("b"));
    let said = text(&metrics);
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("proxy_resident{")).collect();
    assert_eq!(lines, ["imageworks_proxy_resident{model=\"b\"} 1"]);
    metrics.holds_gpu(None);
    assert!(!text(&metrics).contains("proxy_resident{"));
}

#[test]
fn those_who_wait_are_counted_wherever_they_wait() {
    let metrics = Metrics::new().unwrap();
    metrics.waiting_for_gpu.store(2, Ordering::Relaxed);
    let scraped = Scraped { waiting_elsewhere: 3, program_log_dropped: 7 };
    let first = String::from_utf8(metrics.render(scraped).unwrap()).unwrap();
    assert!(first.contains("imageworks_proxy_queue_depth 5\n"), "{first}");
    // A total does not grow by being looked at.
    let again = String::from_utf8(metrics.render(scraped).unwrap()).unwrap();
    for said in [first, again] {
        assert!(said.contains("imageworks_proxy_program_log_dropped_total 7\n"), "{said}");
    }
}
