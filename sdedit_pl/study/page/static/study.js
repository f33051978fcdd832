// The raters' page. The browser stores a choice until the server has confirmed that the answer is on disk. Unsent
// answers are sent again, even after the page was closed and reopened. The server stores an answer only once.
"use strict";

const AHEAD = 5; // trials whose images are loaded before they are needed
const CHOSEN = 180; // milliseconds for which a choice is shown
const SETTLING = 250; // milliseconds after new images in which a choice is ignored as accidental
const FIRST_WAIT = 500, LONGEST_WAIT = 5000; // milliseconds before a retry
const TIMEOUT = 15000;

const element = (id) => document.getElementById(id);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** The browser's storage. If it is blocked, values live as long as the page, and the address identifies the rater. */
class Memory {
  constructor() {
    try {
      localStorage.setItem("sdedit-study", "");
      localStorage.removeItem("sdedit-study");
      this.storage = localStorage;
    } catch {
      this.storage = null;
      this.items = new Map();
    }
  }
  get(key) { return this.storage ? this.storage.getItem(key) : (this.items.get(key) ?? null); }
  set(key, value) { this.storage ? this.storage.setItem(key, value) : this.items.set(key, value); }
  remove(key) { this.storage ? this.storage.removeItem(key) : this.items.delete(key); }
  keys(prefix) {
    const all = this.storage ? Object.keys(this.storage) : [...this.items.keys()];
    return all.filter((key) => key.startsWith(prefix));
  }
}

/** The server rejects the request, and repeating it would not help. */
class Refused extends Error {}

/** Sends a request; throws Refused, or another error if it makes sense to try again. */
async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(TIMEOUT),
    cache: "no-store",
  });
  if (response.status >= 500) throw new Error(`status ${response.status}`);
  const reply = await response.json();
  if (!response.ok) throw new Refused(reply.error);
  return reply;
}

/** Repeats `attempt` until it succeeds and returns its result; calls `failed` after each failure. Throws Refused. */
async function persist(attempt, failed) {
  for (let wait = FIRST_WAIT; ; wait = Math.min(2 * wait, LONGEST_WAIT)) {
    try {
      return await attempt();
    } catch (error) {
      if (error instanceof Refused) throw error;
      failed();
      await pause(wait);
    }
  }
}

/** The answers that the server has not confirmed. */
class Unsent {
  constructor(memory, study, rater) {
    this.memory = memory;
    this.rater = rater;
    this.prefix = `sdedit-study/${study}/${rater}/`;
    this.sending = false;
  }
  /** Drops answers to trials that the server does not ask, as after the study was restored from a backup. */
  onlyTo(trials) {
    const asked = new Set(trials.map((trial) => trial.id));
    for (const trial of this.trials()) if (!asked.has(trial)) this.memory.remove(this.prefix + trial);
  }
  trials() { return this.memory.keys(this.prefix).map((key) => key.slice(this.prefix.length)); }
  keep(trial, choice, milliseconds) {
    this.memory.set(this.prefix + trial, JSON.stringify({ rater: this.rater, trial, choice, milliseconds }));
  }
  /** Sends all answers; calls `changed` with the number left and whether the server was reached. */
  async send(changed) {
    if (this.sending) return;
    this.sending = true;
    try {
      for (let [trial] = this.trials(); trial !== undefined; [trial] = this.trials()) {
        const answer = JSON.parse(this.memory.get(this.prefix + trial));
        await persist(() => post("api/answers", answer), () => changed(this.trials().length, false));
        this.memory.remove(this.prefix + trial);
        changed(this.trials().length, true);
      }
    } finally {
      this.sending = false;
    }
  }
}

/** The images, each loaded once and kept so that it appears without delay. */
class Images {
  constructor() { this.loaded = new Map(); }
  static address(id) { return `images/${id}.png`; }
  load(id) {
    if (!this.loaded.has(id)) {
      this.loaded.set(id, persist(async () => {
        const image = new Image();
        image.src = Images.address(id);
        await image.decode();
        return image;
      }, () => {}));
    }
    return this.loaded.get(id);
  }
  loadTrial(trial) { return Promise.all([trial.left, trial.right, trial.guide].filter(Boolean).map((id) => this.load(id))); }
}

class Page {
  constructor() {
    this.memory = new Memory();
    this.images = new Images();
    this.shown = null; // the trial on the screen; null while no answer is accepted
  }

  async open() {
    try {
      const { id, questions } = JSON.parse(element("study").textContent);
      this.questions = questions;
      this.rater = this.identify(id);
      const { trials } = await persist(() => post("api/join", { rater: this.rater }), () => this.offline(0));
      this.trials = trials;
      this.unsent = new Unsent(this.memory, id, this.rater);
      this.unsent.onlyTo(trials);
    } catch (error) {
      return this.refused(error);
    }
    this.notify("");
    const kept = new Set(this.unsent.trials());
    this.left = this.trials.filter((trial) => !trial.answered && !kept.has(trial.id));
    this.send();
    this.listen();
    this.left.slice(0, AHEAD).forEach((trial) => this.images.loadTrial(trial));
    element("about-guide").hidden = !this.trials.some((trial) => trial.guide);
    const begin = element("start");
    begin.disabled = false;
    begin.textContent = this.left.length < this.trials.length ? `Continue (${this.left.length} to go)` : `Start (${this.trials.length} pairs)`;
    begin.addEventListener("click", () => this.next());
    if (this.left.length === 0) this.next();
  }

  /** The rater: the name in the address, else the one stored in this browser, else a new one. */
  identify(study) {
    const key = `sdedit-study/${study}`;
    const named = new URLSearchParams(location.search).get("rater");
    if (named) {
      element("name").textContent = `the name “${named}” that the address of this page carries`;
      element("again").hidden = element("next-person").hidden = true;
      return named;
    }
    element("again").addEventListener("click", () => {
      this.memory.remove(key);
      location.reload();
    });
    let rater = this.memory.get(key);
    if (!rater) {
      rater = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
      this.memory.set(key, rater);
      if (!this.memory.storage) history.replaceState(null, "", `?rater=${rater}`);
    }
    return rater;
  }

  listen() {
    for (const side of ["left", "right"]) element(side).addEventListener("click", () => this.choose(side));
    const keys = { ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right" };
    addEventListener("keydown", (event) => {
      const side = keys[event.key];
      if (!side || event.repeat || event.altKey || event.ctrlKey || event.metaKey || element("trial").hidden) return;
      event.preventDefault();
      this.choose(side);
    });
  }

  /** Shows the next trial once its images are loaded. */
  async next() {
    this.shown = null;
    element("welcome").hidden = true;
    const done = this.trials.length - this.left.length;
    element("top").hidden = false;
    element("progress").max = this.trials.length;
    element("progress").value = done;
    element("count").textContent = `${done} of ${this.trials.length}`;
    if (this.left.length === 0) return this.finish();

    const trial = this.left[0];
    const { text, hint } = this.questions[trial.question];
    element("question").textContent = text;
    element("hint").textContent = hint;
    element("guide").hidden = !trial.guide;
    element("images").className = trial.guide ? "waiting guided" : "waiting";
    for (const side of ["left", "right"]) {
      element(side).classList.remove("chosen");
      element(side).disabled = true;
    }
    element("trial").hidden = false;

    this.left.slice(0, AHEAD).forEach((ahead) => this.images.loadTrial(ahead));
    const late = setTimeout(() => this.offline(this.unsent.trials().length), 3000);
    await this.images.loadTrial(trial);
    clearTimeout(late);
    await Promise.allSettled(["left", "right", "guide"].filter((place) => trial[place]).map((place) => {
      const image = element(place).querySelector("img");
      image.src = Images.address(trial[place]);
      return image.decode();
    }));
    element("images").classList.remove("waiting");
    for (const side of ["left", "right"]) element(side).disabled = false;
    element("question").focus({ preventScroll: true });
    if (this.unsent.trials().length === 0) this.notify("");
    this.shown = trial;
    this.since = performance.now();
  }

  async choose(side) {
    const took = performance.now() - this.since;
    if (!this.shown || took < SETTLING) return;
    const trial = this.shown;
    this.shown = null;
    this.unsent.keep(trial.id, side, Math.round(took));
    this.send();
    element(side).classList.add("chosen");
    await pause(CHOSEN);
    this.left.shift();
    this.next();
  }

  async send() {
    try {
      await this.unsent.send((count, reached) => {
        reached ? this.notify("") : this.offline(count);
        if (this.left.length === 0) this.finish();
      });
    } catch (error) {
      this.refused(error);
    }
  }

  finish() {
    const count = this.unsent.trials().length;
    element("trial").hidden = true;
    element("thanks").hidden = false;
    element("again").disabled = count > 0;
    element("outcome").textContent = count === 0
      ? `All your ${this.trials.length} answers have arrived. You can close this page.`
      : `${count} of your ${this.trials.length} answers are still being sent: please leave this page open.`;
    if (document.activeElement === document.body) element("thanks").querySelector("h1").focus();
  }

  offline(count) {
    const kept = count === 0 ? "" : count === 1 ? " Your last answer is stored here and will be sent later."
      : ` Your last ${count} answers are stored here and will be sent later.`;
    this.notify(`The server does not answer at the moment.${kept}`);
  }

  refused(error) {
    this.shown = null;
    this.notify(`That did not work: ${error.message}.`);
  }

  notify(text) {
    if (element("notice").textContent !== text) element("notice").textContent = text;
    element("notice").hidden = !text;
  }
}

new Page().open();
