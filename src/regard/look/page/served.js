// The page of attention as a live server gives it: the same page, which also fetches from that server.

import { makeLive } from "./live.js";
import "./main.js";

makeLive();
