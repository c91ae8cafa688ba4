// The run's page: draws its charts, and opens the candidate that a link leads to.

const frontier = curvesOf(data.frontier);
const offered = [...new Set(data.frontier.others.map(({ candidate }) => candidate))];
const best = data.frontier.labels.find((label) => label.startsWith("best: "));
const usual = [best, "confidence_momentum", "self_consistency"];
const shown = choices(find("#methods"), data.frontier, (label) => usual.includes(label));
const picked = find("#picked");
offer(picked, [["", "none"], ...offered.map((candidate) => [candidate, candidate])]);

const drawTrajectory = () => {
  const { trajectory, specs } = data;
  const spec = specs.trajectory;
  spec.datasets = { steps: trajectory.steps, points: [...trajectory.points, ...trajectory.proved] };
  const last = Math.max(1, Math.round(trajectory.rounds));
  spec.encoding.x.scale.domain = [0.5, last + 0.5];
  spec.encoding.x.axis.values = Array.from({ length: last }, (_, round) => round + 1);
  return chart(find("#trajectory-chart"), spec, "trajectory", "trajectory");
};

const drawFrontier = async () => {
  const { points, others } = data.frontier;
  frontier.description = "Accuracy against tokens, of the best candidate, hand-made controllers, and other candidates";
  frontier.data = { values: points };
  frontier.layer.splice(0, 1); // there are no intervals
  frontier.layer[0].encoding.strokeWidth = { condition: { test: { field: "method", equal: best }, value: 3 }, value: 1.4 };
  frontier.params.push({ name: "picked", value: "" });
  frontier.params[0].value = shown();
  const line = (mark, opacity) => ({
    data: { values: others },
    mark: { type: "line", ...mark },
    encoding: {
      y: { field: "accuracy", type: "quantitative" },
      order: { field: "tokens", type: "quantitative" },
      detail: { field: "candidate", type: "nominal" },
      color: { value: mark.color },
      opacity,
    },
  });
  const isPicked = { condition: { test: "datum.candidate === picked", value: 1 }, value: 0 };
  if (others.length) {
    frontier.layer.unshift(line({ color: "#888888", strokeWidth: 1 }, { value: 0.35 }));
    frontier.layer.push(line({ color: "currentColor", strokeWidth: 2, strokeDash: [5, 2] }, isPicked));
  }
  const view = await chart(find("#frontier-chart"), frontier, "frontier", "frontier");
  find("#methods").addEventListener("input", () => view.signal("shown", shown()).runAsync());
  picked.addEventListener("input", () => view.signal("picked", picked.value).runAsync());
};

const drawTunings = () =>
  data.tunings.map(({ title, order, points }) => {
    const place = element("div", { className: "chart" });
    find("#tuning-charts").append(element("div", {}, element("h4", {}, title), place));
    const spec = structuredClone(data.specs.tuning);
    spec.description = `Gain by generation when ${title} was tuned`;
    spec.data = { values: points };
    spec.encoding.x.sort = order;
    return chart(place, spec, `tuning of ${title}`, "tuning");
  });

/** Opens the candidate that the address names. */
const arrive = () => {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (place?.tagName !== "DETAILS") return;
  place.open = true;
  place.scrollIntoView();
  find("summary", place).focus({ preventScroll: true });
};
addEventListener("hashchange", arrive);
arrive();

// Nothing is drawn of nothing: Vega would complain.
if (data.trajectory.points.length) await Promise.all([drawTrajectory(), drawFrontier(), ...drawTunings()]);

