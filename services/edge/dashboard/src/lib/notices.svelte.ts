// Short messages at the edge of the page, read out by screen readers.

import { words } from "./api";

export interface Notice {
  id: number;
  text: string;
  bad: boolean;
}

class Notices {
  list = $state<Notice[]>([]);
  #last = 0;

  say(text: string, bad = false) {
    const id = ++this.#last;
    // Of what went well, only the last is worth reading.
    this.list = this.list.filter((notice) => notice.bad);
    this.list.push({ id, text, bad });
    setTimeout(() => this.drop(id), bad ? 10_000 : 4_000);
  }

  drop(id: number) {
    this.list = this.list.filter((notice) => notice.id !== id);
  }

  /** Does something and says how it went. True where it went well. */
  async during(work: () => Promise<unknown>, done = ""): Promise<boolean> {
    try {
      await work();
      if (done) this.say(done);
      return true;
    } catch (error) {
      this.say(words(error), true);
      return false;
    }
  }
}

export const notices = new Notices();
