"""Words that give away noise, by idea, and the clues that are read from them.

text -> ideas -> clues -> weight of evidence for a class. An idea is a set of words and phrases (`_` joins the words of
a phrase, `*` stands for any ending). A clue is one or more ideas that follow each other in one sentence. The lists hold
general wording and are meant to grow; slurs are among them because a filter cannot do without.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Clue(NamedTuple):
    """Ideas that follow each other within `span` words of one sentence, and how much that says."""

    ideas: tuple[str, ...]
    weight: float  # 0..1; from 0.5 on it is enough alone
    span: int = 14


IDEAS: Mapping[str, str] = {
    # asking for help with something
    "ask": """how_to how_do how_can how_could how_would how_should how_might how_does ways_to way_to ways_of
        steps_to method* write create develop design build make generate produce provide give teach show tell
        explain describe outline draft compose suggest help helping instruct* guide guides tutorial manual
        blueprint recipe script program code algorithm publish convince persuade where_can where_do where_to plan
        strategy tips advice demonstrate construct best_place i_want i_need should_i can_i what_is_the_best
        what_is_the_easiest what's_the_best what's_the_easiest what_are_ways is_it_okay perfect_strategy easiest
        best tell_me encourage""",
    "compose": """write create compose draft generate develop publish make produce design provide give post tweet
        article essay speech blog story email message letter script scene joke poem campaign""",
    "hurt": """kill* murder* poison* stab stabbing strangl* assassinat* execute executing punch* kidnap* abduct*
        tortur* rape raping molest* shoot* lynch* behead* suffocat* smother* blackmail* extort* stalk* bully*
        bullied harass* dox doxx* threaten* intimidat* coerc* traffic* mutilat* cannibal* humiliat* rob robbing
        defraud* scam* swindl* hurt* harm harming injur* drown* maim beat beating decapitat* ruptur* groom grooming
        drug drugging slander* terroriz* terroris* castrat* burn ruin trick tricking deceive seduc* manipulat*
        snipe snap""",
    "person": """someone somebody anyone person people human* him her victim victims wife husband boss partner
        girlfriend boyfriend ex neighbor* neighbour* colleague* coworker* co-worker friend friends mother father
        mom dad brother sister parent parents child children kid kids baby son daughter patient patients teacher
        classmate* roommate man woman girl girls boy women men politician* president minister police officer* judge
        spouse enemy minor minors civilian* employee* student* crowd stranger* toddler infant animal animals dog
        cat elderly lady guy""",
    "crime": """assassination assassinations bombing bombings black_market hate_mail dead_body cult outbreak
        indoctrinat* weed ecstasy opioids shell_companies counterfeiting insider-trading identity_theft
        money_laundering launder* insider_trading tax_evasion evade_taxes tax_fraud card_fraud insurance_fraud
        ponzi pyramid_scheme* embezzl* forge forged forgery forging counterfeit* fake_id fake_ids fake_passport*
        fake_document* fake_prescription* fake_money fake_currency fake_news fake_review* fake_website*
        fake_charity fake_medicine phishing ransomware malware spyware keylogger* trojan botnet rootkit
        computer_virus computer_worm viruses zero-day ddos denial-of-service denial_of_service backdoor* pipe_bomb*
        nail_bomb* dirty_bomb* car_bomb* bomb bombs explosives explosive_device* molotov napalm thermite nerve_gas
        nerve_agent sarin ricin anthrax bioweapon* biological_weapon* chemical_weapon* nuclear_weapon*
        weapons_of_mass ghost_gun* untraceable silencer meth methamphetamine* cocaine heroin fentanyl mdma lsd ghb
        rohypnol illegal_drugs drug_cartel* terrorist* terror_attack* mass_shooting* school_shooting* massacre*
        genocide ethnic_cleansing child_porn* child_pornography sex_trafficking human_trafficking hitman
        hire_a_hitman arson arsonist* burglar* carjack* hotwir* hot-wire shoplift* bribe bribes bribery bribing
        plagiari* hate_speech nazi* white_supremac* holocaust conspiracy_theor* propaganda defam* revenge_porn
        deepfake* animal_cruelty dogfight* dog_fighting illegal illegally dark_web darknet vandali* sabotag* riot
        riots unauthorized_access credit_card_skimm* skimming hacking misinformation disinformation cyberattack*
        cyber_attack* ransom heist contraband sql_injection keylogging cannibals pedophil* violent_extremis*
        insurrection dirty_nuke trespass* piracy pirated burn_down cyberbullying catfish* scam_people scam_email*
        scam commit_fraud committing_fraud commit_a_crime stolen_credit stolen_identit* stolen_goods smuggl*
        spam_emails huff* steroid* drunk_driving gambling_addict* nude_photos bootleg* extremist* terrorism
        dating_scam* racist sexist homophobic racism antisemit* racial_slur* discriminat* self-harm orgy orgies
        pornograph* sexually_explicit violence violent shoplifting bullying harassment""",
    "steal": """steal* rob hack* crack cracking break_into breaking_into breaks_into intercept* infiltrat* tamper*
        bypass* compromis* penetrat* corrupt corrupts destroy* wipe wipes wiping infect* gain_access gaining_access
        unauthorized eavesdrop* spy_on spying wiretap* manipulat* exploit* disrupt* hijack* shut_down take_down
        disabl* overload* crash* poison* override pick_the_lock rig rigging scrape launder obtain* forge leak
        leaking trick sneak""",
    "target": """personal_information personal_data sensitive_information sensitive_data confidential*
        private_information user_data customer_data credentials password passwords identity identities
        email_account* bank_account* credit_card* someone's person's government agency military corporate company
        company's corporation network networks database* server servers firewall* power_grid water_supply
        traffic_light* hospital pacemaker* medical_device* voting election* stock_market stock_price*
        security_system* surveillance smartphone wi-fi wifi atm vending_machine* webcam computer computers
        computer_system* operating_system website websites hard_drive* satellite* drone* infrastructure
        trade_secret* classified source_code bank_details social_security jewelry artwork museum store car cars
        casino playstation gun_shop* facility uranium organs electronic_device* devices copyrighted drm
        financial_system* financial_data users systems identity_card personal_gain login_credential* bank house
        home""",
    "conceal": """disguise_myself background_checks without_their_consent without_his_consent without_her_consent
        without_consent black_market black-market without_getting_caught without_being_caught not_get_caught
        getting_caught without_being_detected without_detection undetected avoid_detection avoiding_detection
        evade_detection evading_detection evade_law_enforcement avoid_law_enforcement avoid_getting_caught
        avoid_suspicion without_arousing_suspicion look_like_an_accident look_like_a_suicide cover_your_tracks
        cover_my_tracks cover_their_tracks get_away_with getting_away_with dispose_of_a_body dispose_of_the_body
        hide_a_body hide_the_body without_anyone_knowing without_alerting without_a_trace without_leaving_a_trace""",
    "selfharm": """commit_suicide committing_suicide committed_suicide kill_myself killing_myself kill_yourself
        kill_themselves end_my_life ending_my_life take_my_own_life taking_my_own_life want_to_die wanted_to_die
        self-harm self_harm cut_myself cutting_myself slit_my hang_myself overdose overdosing anorexia anorexic
        thinspo pro-ana bulimi* starve_myself extreme_dieting rid_of_my_life ways_to_die suicide unassisted_suicide""",
    "private": """home_address social_security_number private_address personal_address phone_number medical_records
        private_photos private_information personal_phone bank_details current_location bathroom medical_history
        sexual_orientation criminal_history passport_number tax_records instagram_password mobile_phone_number
        browser_history personal_life""",
    "promote": """promot* encourag* glorif* incit* advocat* endors* justif* defend defending praising glamoriz*
        convinc* persuad* normaliz* arguing argues celebrat* disparag*""",
    "vice": """violence violent harm harmful hatred discriminat* drug drugs alcohol drunk smoking cigarettes
        anorexi* eating_disorder* unprotected cheat cheating gambl* underage minors unsafe dangerous illegal hoax
        superior inferior suicide self-harm steroids vaping slavery racism racist sexual_acts incest rape
        drink_and_drive harassment inappropriate unnecessary bullying stalking body_shaming predatory anti-vax*""",
    # talk about harm that is no request for it
    "defence": """prevent* protect* detect* report reported reporting defend* against safely monitor* recover*
        mitigat* blocking block history_of definition what_does what_kind who_is who_was why_is why_did why_are
        when_did when_was movie film novel game games video_game minecraft witcher gta sims counter_strike
        call_of_duty python linux java unix process processes was_stolen been_stolen got_stolen lost_or_stolen
        stolen_card was_hacked been_hacked my_lost fictional suspicious safety awareness victim_of c++ windows
        warcraft fortnite dota chess""",
    # role play that drops the rules
    "ai": """ai chatgpt gpt gpt-3 gpt-4 openai openai's assistant bot chatbot language_model llm ais model""",
    "become": """act_as acting_as pretend imagine roleplay role-play role_play simulate you_are_now
        you_are_going_to you_will_be from_now_on play_the_role take_on_the_role assume_the_role respond_as
        answer_as behave_as you_are_about_to you_will_act you_will_respond going_to_act_as immerse_yourself embody
        take_the_role impersonat* you_must_act you_are_a you_are_an you_are_the persona alter_ego you're_a
        you_will_now henceforth act_like""",
    "freed": """free freed broken_free broke_free break_free liberated released unbound unrestricted unfiltered
        uncensored unlimited no_longer without ignore ignores ignoring bypass bypasses bypassing disregard
        disregards disable disabled does_not doesn't do_not don't did_not will_not won't not never no cannot can't
        must_not mustn't should_not nor none bereft devoid lacks lack neither""",
    "limits": """restriction* limitation* censorship censor censored filters filtering guideline* content_polic*
        openai_polic* policies policy ethic* moral* morality legality safety_rules safety_guidelines constraints
        confines standards norms laws rules moderation warnings disclaimer* political_correctness ethical_concerns
        regulations boundaries principles programming""",
    "refuse": """refuse refuses refusing reject rejects decline declines deny apologize apologise sorry warn
        warning warnings moralize disclaimer* disclaimers break_character out_of_character say_you_can't
        say_that_you_can't i_cannot as_an_ai comply_with_the_law""",
    "amoral": """amoral unethical uncensored unfiltered unrestricted unhinged immoral evil unmoderated
        unconstrained jailbreak jailbroken jailbreaking dan do_anything_now developer_mode stan dude aim evilbot
        rogue foul-mouthed profanity profanities curse_words swear swears swearing vulgar obscene repulsive
        opposite_mode anti-dan machiavellian""",
    "dan": """do_anything_now developer_mode jailbreak jailbroken jailbreaking jailbreaked as_dan dan_mode
        dan_prompt a_dan stay_in_character remain_in_character in_character break_character stay_a_dan
        god_mode_enabled unfiltered_response amoral_response""",
    "obey": """two_personalities whatever_it_wants no_rules never_refuses always_fulfill* always_answer*
        always_compl* always_obey* must_answer must_comply must_obey must_respond will_answer_any any_request
        any_question every_request any_prompt all_requests whatever_i_ask no_matter_what no_matter_how
        without_question anything_i_ask answer_any fulfills_the directly_fulfills start_your_response
        start_your_reply begin_your_response begin_your_reply start_all_your responding_to_every""",
    "illicit": """illegal unethical immoral harmful offensive inappropriate dangerous explicit criminal taboo
        forbidden controversial illicit villain* nefarious diabolical extremist hateful derogatory""",
    "staging": """screenplay novel screenwriter writer journalist novelist author scene story dialogue fictional
        fiction hypothetical* parallel_universe actor blogger thought_leader influencer chemist hacker character
        characters movie play expert scientist professor research_purposes article investigative you've_been_tasked
        you_have_been_tasked been_hired been_asked to_draft imagine you're_a scenario monologue podcast
        conversation_between script thriller detective documentary academic""",
    "crimeword": """steal* exploit* conspir* weapon* drug drugs poison* bomb* manipulat* scam* fraud* hack*
        malware* attack* kill* murder* blackmail* launder* counterfeit* forg* cheat* plagiari* stalk* harass*
        explosive* terror* extremis* suicid* anorexi* propaganda hoax* sexual* racis* discriminat* insider* ponzi
        vaccin* misinformation denial holocaust flat_earth genocide tamper* defam* ransom* bully* trafficking
        ecstasy deep_fake* phishing embezzl* illegal* wiretap* keylogger cannibalism identity_theft sex minors gun
        guns heist""",
    # text that addresses the machine and not the helper
    "override": """ignore ignoring disregard* forget override overlook bypass neglect do_not_follow ignorez ignora
        ignorar ignoriere ignorieren ignoruj negeer oublie* olvida vergiss esque* dimentica игнорируй 忽略 無視 忘记""",
    "previous": """previous prior above earlier preceding former initial original foregoing past existing all any
        your these those everything précédent* anteriores vorherigen vorigen alle todas precedent* предыдущие todo""",
    "orders": """instruction* directive* direction* prompt prompts rules guideline* training programming
        system_message what_you_were_told everything_above instructions instrucciones anweisungen istruzioni
        instruções инструкции constraints restrictions fonction funktion función""",
    "reveal": """reveal print show repeat output tell_me give_me display share leak disclose write spell encode
        translate say what_is what's what_are what_was summarize provide read_me sing sends send_me rhyme explain
        repeat_back""",
    "secret": """system_prompt initial_instructions hidden_instructions secret_instructions your_instructions
        your_prompt your_rules your_guidelines secret_key secret_code secret_word secret_phrase secret_password
        passphrase your_password your_secret your_api_key access_code confidential_information
        confidential_instructions initial_prompt original_prompt the_secret""",
    "authority": """i'm_your_developer i_am_your_developer i'm_your_creator i_am_your_creator i'm_your_admin*
        i_am_your_admin* i'm_the_admin* i_am_the_admin* i'm_an_admin* i_am_an_admin* i'm_your_supervisor
        i_am_your_supervisor i'm_your_boss i_am_your_boss i_am_your_owner i'm_your_owner as_your_developer
        as_your_creator as_your_admin* one_of_your_developers system_check debug_mode maintenance_mode sudo_mode
        god_mode admin_mode root_access system_override emergency_override developer_override""",
    "newtask": """new_instructions new_instruction updated_instructions real_instructions actual_task
        your_real_task your_new_task only_task your_true_purpose instead_say instead_output instead_respond
        instead_print you_must_now must_now_respond you_must_say respond_only_with this_text_is_important
        from_now_on_respond""",
    "encoding": """base64 rot13 rot-13 pig_latin leetspeak leet_speak hexadecimal morse caesar_cipher backwards
        reverse_order letter_by_letter character_by_character each_letter first_letter ascii""",
    "smuggle": """incorporate integrate append insert embed leverage utilize ensure include consider implement
        infuse combine fortify seamlessly enhance add""",
    "snippet": """code_snippet code_block code_excerpt code_segment code_section following_code subsequent_code
        code_fragment this_code following_snippet following_block""",
    "exfiltrate": """requests.post requests.get urlopen smtplib paramiko socket keylogger clipboard
        target-server.com server_socket ftplib""",
    # abuse, hatred, pornography
    "slur": """nigg* fag fags faggot* spic spics kike kikes chink chinks gook gooks wetback* coon coons beaner*
        trannie* tranny dyke dykes raghead* towelhead* jungle_bunny jungle_bunnies porch_monkey* sand_monkey*
        white_trash retard retards retarded redskin* darkie* blackies mudshark* zigeuner* untermensch*
        camel_jockey* pollack* gypsies subhuman* negro negros queer queers honkey* goyim shitskin* libtard*""",
    "insult": """bitch bitches bitchass cunt cunts whore whores slut sluts hoe hoes thot thots pussy pussies
        bastard bastards asshole* motherfuck* cocksuck* dickhead* twat twats skank* scumbag* dipshit* shithead*
        douchebag* puta putas salope* hurensohn schlampe arschloch fotze cazzo stronzo kurwa connard* maricon*
        блять бля сука хуй пизда fuckwit* wanker* dumbass* jackass* trash scum degenerate* pathetic worthless bich
        biatch ugly""",
    "your": """you you're u ur your he's she's he she they these this that those them all yall y'all""",
    "abuse": """screw_you bunch_of_crooks bunch_of_idiots burns_to_the_ground shut_up_you fuck_you fuck_off fuck_u
        fuck_him fuck_her fuck_them fuck_em fuck_that shut_the_fuck piece_of_shit go_to_hell kill_yourself kys
        son_of_a_bitch eat_shit suck_my burn_in_hell rot_in_hell stfu fucking_stupid stupid_bitch dumb_bitch
        dumb_fuck bitch_ass ass_nigga your_mom_is bitch_i bad_bitch""",
    "swear": """fuck* mothafuck* shit shitty bullshit ass asses arse damn goddamn dick dicks cock cocks tits
        titties piss pissed crap prick wtf boobs hell cum fck* fuckin lmao lmfao lmaoo bae smh""",
    "group": """jew jews jewish zionis* muslim muslims islam islamic blacks whites black white arab arabs mexican
        mexicans immigrants illegals gay gays lesbian* homosexual* homo transgender* feminist* feminism nazi nazis
        hitler aryan race races racial demographic* gypsy women christians liberals leftists refugees africans
        asians asian african israel palestinian* indians russians trans""",
    "bloody": """kill* murder* rape raped rapist* raping shoot* stab* tortur* blood bloody beat beaten beating dead
        death die died dying bomb* nuke* explosive* slaughter* behead* hang hanged execut* corpse* bleed*
        broken_bones broke_his broken_cheek eye_socket massacre* gun guns knife strangl* exterminat* suicide choke
        choked dismember* burn burned hit punched smashed throat skull bones wound* gore gang_war attack*""",
    "demean": """stupid idiot* moron* dumb loser* ugly trash filth* disgust* pathetic scum freak* monkey monkeys
        gorilla* apes rats pigs savages vermin inferior superior* evil parasites* cancer garbage lazy thieves
        terrorist* criminals hate hated hates hateful coward* weak dirty nasty degenerate* liar liars sick
        delusional fools foolish uncivili* ignorant clown clowns""",
    "porn": """porn porno pornstar* blowjob* blow_job* handjob* gangbang* gang_bang deepthroat* orgy orgies orgasm*
        masturbat* milf milfs bukkake dildo* hentai xxx nude nudes naked horny cumshot* creampie* bdsm incest
        fellatio penis vagina nipples erection clit anal escort escorts camgirl* lingerie sex_tape* sex_video*
        sex_chat sex_cam* sex_clip* gay_sex sexe sexy_couples seeking_sex shemale* fetish* erotic erotica
        webcam_sex sex_view hardcore free_porn big_cock huge_cock bite_en salope_* sperme fuck_me fucked_her pussy
        cocks dick tits boobs breasts moan* thrust* spank* threesome* pounding kinky virgin submissive dominat*
        cock slutty strip undress*""",
    "sexual": """sex sexual sexually sexy breast* thigh* moan* lust* seduc* underwear panties bra naughty virgin*
        kissed kissing aroused arousal intimate slave bed girls hookup hook_up dating_site* online_dating
        single_women seduced skirt panting legs lips stripped groped escorte* hot_girls adult bulge leather""",
    "threat": """kill_you kill_him kill_her kill_them kill_all beat_you i_will_kill i'll_kill hope_you_die
        hope_they_die should_die must_die deserve_to_die should_be_shot should_be_killed should_be_hanged
        shoot_them shoot_you bomb_them nuke_them nuke_the exterminate_the gas_the burn_them hang_them kill_every
        rape_her rape_you cut_your stab_you choke_you beat_your beat_the die_slow rig_the wipe_them slap_the
        burn_your blow_up""",
    # advertising
    "prize": """won win winner winners prize prizes awarded award jackpot lucky entitled guaranteed selected
        congratulations congrats claim reward rewards bonus giveaway tarot gift gifts voucher vouchers lottery
        raffle discount chance chances sweepstake* unredeemed""",
    "free": """free freemsg free_msg freefone freephone for_nothing no_cost offer offers half_price special_offer
        limited_time unlimited exclusive latest hottest ringtone* tone tones polyphonic polys wallpaper* logo logos
        xmas credits credit trial cheap cheapest bargain* sale unlimited_texts""",
    "call_now": """call txt text sms reply rply calls dial send ring click order_now buy_now act_now subscribe
        sign_up unsubscribe unsub optout opt_out stop visit call_now reply_to txting texting log_on msg ur apply""",
    "tariff": """16+ 18+ std_rate national_rate po_box p.o_box pobox landline land_line callcost t&c t&cs t&c's
        tscs tsandcs ts&cs t_&_c t's&c's per_week per_wk every_wk /wk norm150p/tone help_desk customer_service
        terms_and_conditions_apply sae operator cost costs tnc tncs callertune* std_txt valid_12hrs ringtoneking
        callback""",
    "gadget": """mobile mobiles mob mobs nokia motorola sony sonyericsson ericsson ipod camcorder handset orange
        vodafone bluetooth xbox network camera laptop holiday cinema_pass dvd phone fone colour video txts msgs
        mins minutes tickets ibiza club voda ntt tenerife digital mp3""",
    "dating": """filthy filth babes hunks hot_pic luv knickers dating secret_admirer fancies_you fancy flirt*
        singles chatline chat_line lonely hot_girls sexy girls gay_men hookups meet dogging chat sex adult xxx
        horny naughty love_life divorced""",
    "sales": """hot_singles best_replicas cheap_watches free_shipping only_today join_for_free search_engines
        first_month_free no_experience_needed no_experience_required buy_now act_now limited_time_offer click_here
        click_below order_now lowest_price* money_back money-back risk-free no_obligation make_money earn_money
        work_from_home double_your crypto_giveaway guaranteed_returns guaranteed_income viagra cialis casino
        free_spins betting_tips weight_loss_pills followers_for whatsapp_me dm_me subscribe_to_my check_out_my
        investment_opportunity passive_income best_price* utility_token 100_free 100_legit seo_services""",
}

CLUES: Mapping[str, tuple[Clue, ...]] = {
    "prompt_injection": (
        Clue(("override", "previous", "orders"), 0.8, 10),
        Clue(("override", "orders"), 0.5, 6),
        Clue(("reveal", "secret"), 0.6),
        Clue(("secret",), 0.3),
        Clue(("secret", "encoding"), 0.5, 30),
        Clue(("authority",), 0.5),
        Clue(("#role",), 0.5),
        Clue(("newtask",), 0.6),
        Clue(("encoding",), 0.2),
        Clue(("smuggle", "snippet"), 0.5),
        Clue(("exfiltrate",), 0.3),
    ),
    "jailbreak": (
        Clue(("dan",), 0.6),
        Clue(("amoral", "ai"), 0.6, 8),
        Clue(("freed", "limits"), 0.45, 10),
        Clue(("freed", "refuse"), 0.4, 6),
        Clue(("obey",), 0.4),
        Clue(("become", "ai"), 0.35, 12),
        Clue(("become",), 0.2),
        Clue(("amoral",), 0.2),
        Clue(("illicit", "illicit"), 0.35, 6),
        Clue(("ai", "limits"), 0.2),
        Clue(("staging", "staging"), 0.15, 60),
        Clue(("staging", "crimeword"), 0.25, 60),
        Clue(("become", "crimeword"), 0.25, 60),
        Clue(("illicit",), 0.1),
    ),
    "harmful_request": (
        Clue(("ask", "hurt", "person"), 0.6),
        Clue(("ask", "crime"), 0.5),
        Clue(("ask", "steal", "target"), 0.5),
        Clue(("conceal",), 0.5),
        Clue(("ask", "selfharm"), 0.6),
        Clue(("selfharm",), 0.2),
        Clue(("private", "person"), 0.3, 8),
        Clue(("person", "private"), 0.5, 4),
        Clue(("whose", "private"), 0.5, 3),
        Clue(("promote", "vice"), 0.4),
        Clue(("compose", "promote", "vice"), 0.3),
        Clue(("crime",), 0.15),
        Clue(("steal", "target"), 0.15),
    ),
    "spam": (
        Clue(("call_now", "#number"), 0.45, 12),
        Clue(("call_now", "#link"), 0.3, 12),
        Clue(("#fee",), 0.45),
        Clue(("prize", "#money"), 0.3, 12),
        Clue(("#money", "prize"), 0.3, 12),
        Clue(("#number",), 0.15),
        Clue(("#shout",), 0.2),
        Clue(("prize", "call_now"), 0.3, 30),
        Clue(("call_now", "prize"), 0.25, 30),
        Clue(("free", "call_now"), 0.2, 30),
        Clue(("call_now", "free"), 0.15, 30),
        Clue(("free", "gadget"), 0.2, 20),
        Clue(("prize", "gadget"), 0.2, 20),
        Clue(("prize", "prize"), 0.2, 20),
        Clue(("tariff",), 0.3),
        Clue(("dating", "call_now"), 0.25, 30),
        Clue(("gadget", "call_now"), 0.15, 30),
        Clue(("sales",), 0.4),
        Clue(("sales", "sales"), 0.3, 40),
    ),
    "toxic": (
        Clue(("slur",), 0.6),
        Clue(("insult",), 0.35),
        Clue(("insult", "demean"), 0.3, 20),
        Clue(("#tweet", "insult"), 0.3, 40),
        Clue(("swear", "insult"), 0.25, 20),
        Clue(("insult", "swear"), 0.25, 20),
        Clue(("your", "insult"), 0.3, 4),
        Clue(("insult", "insult"), 0.3),
        Clue(("abuse",), 0.5),
        Clue(("swear",), 0.2),
        Clue(("swear", "swear"), 0.3, 30),
        Clue(("group", "demean"), 0.3, 20),
        Clue(("demean", "group"), 0.25, 20),
        Clue(("group", "bloody"), 0.3, 20),
        Clue(("bloody", "group"), 0.3, 20),
        Clue(("bloody", "your", "group"), 0.35, 5),
        Clue(("bloody", "bloody"), 0.25, 20),
        Clue(("group", "group"), 0.15, 20),
        Clue(("demean", "demean"), 0.25, 20),
        Clue(("your", "demean"), 0.2, 5),
        Clue(("your", "demean", "demean"), 0.25, 20),
        Clue(("porn",), 0.3),
        Clue(("porn", "porn"), 0.4, 30),
        Clue(("sexual", "porn"), 0.2, 30),
        Clue(("sexual", "sexual"), 0.2, 30),
        Clue(("threat",), 0.5),
        Clue(("selfharm",), 0.4),
    ),
}
