// The pages of an encoding and of a mask.

import { page } from "./decode.js";
import { byId, root } from "./dom.js";
import { startEncoding } from "./encoding.js";
import { startMask } from "./mask.js";
import { listenToKeys, start } from "./shell.js";

start(
  () => {},
  async () => {
    const plain = byId("plain");
    plain.hidden = false;
    listenToKeys([["\u2190 \u2192 \u2191 \u2193", "in the map: the cursor"]], "", {});
    await (page.kind === "encoding" ? startEncoding(plain) : startMask(plain));
    root.dataset.ready = "yes";
  },
);
