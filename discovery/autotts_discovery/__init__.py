"""Discovery: a proposer writes controllers; the loop judges, tunes, remembers and proves them (AutoTTS, section 3)."""
