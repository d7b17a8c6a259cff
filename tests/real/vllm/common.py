"""What the checks of a real vLLM have in common: waiting for a condition, telling a figure."""
import time


def until(condition, timeout_s, what, pause_s=0.002):
    """Waits for a condition to give something, and returns that."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(pause_s)
    raise AssertionError(f"{what}: not within {timeout_s} s")


def note(text):
    """A figure, beside the check that it belongs to."""
    print(f"        {text}", flush=True)
